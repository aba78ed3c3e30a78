"""One INSERT, for as long as it takes: what is stored already is left out, and what may pass is tried again.

A try is the same rows with the same token as the one before, so that ClickHouse stores them once, whatever became of
that. Between two there is a pause: exponential backoff with jitter, without end.
"""

import asyncio
import random
import time
from typing import Protocol

from schemas.payload import Rows
from service.errors import Misconfigured, Rejected, Retryable
from service.repeats import Lookups, Repeats, is_stored, may_have_client_ids
from service.status import Status
from service.turns import Turns

BACKOFF_FIRST, BACKOFF_MAX, BACKOFF_MAX_MISCONFIGURED = 0.1, 5.0, 15.0


class Inserter(Lookups, Protocol):
    """What is needed of the store."""

    async def insert(self, rows: Rows, token: str) -> None:
        """Insert one block. Raises StoreError."""


class Inserts:
    """Inserts into ``store``. ``window`` is how far back repeats are looked for, in seconds; see ``Repeats``."""

    def __init__(self, store: Inserter, status: Status, window: float, turns: Turns | None = None) -> None:
        self._repeats = Repeats(store, window)
        #: When ClickHouse last took or rejected a batch; seconds on the monotonic clock.
        self.heard_at = 0.0
        #: Whether the batch at hand has failed and is tried again: then only an insert shows that ClickHouse works.
        self.retrying = False
        self._store = store
        self._status = status
        self._turns = turns

    async def insert(self, token: str, rows: Rows, *, tried: bool) -> int:
        """Insert these rows as one block; how many were repeats. Raises Rejected.

        ``tried``: an earlier try may have stored them, and nobody heard of it.
        """
        if self._turns and may_have_client_ids(rows):
            async with self._turns.mine():
                return await self._insert_until_answered(token, rows, tried=tried)
        return await self._insert_until_answered(token, rows, tried=tried)

    def settle(self) -> None:
        """Nothing is to be inserted for now: let the other workers have their turn."""
        if self._turns:
            self._turns.settle()

    def close(self) -> None:
        """Insert no more."""
        if self._turns:
            self._turns.close()

    async def _insert_until_answered(self, token: str, rows: Rows, *, tried: bool) -> int:
        tries, repeats = 0, -1
        while True:
            try:
                fresh = await self._repeats.without(rows)
                if repeats < 0:  # later, rows that a try of ours has stored are among them
                    repeats = len(rows) - len(fresh)
                if fresh and not (tried and await is_stored(self._store, fresh)):
                    await self._store.insert(fresh, token)
            except Retryable as error:
                self.retrying = True
                self._status.fails(error.public, str(error))
                answered = isinstance(error, Misconfigured)
                tried = tried or not answered  # a view behind the table may have failed: it is filled by another try
                longest = BACKOFF_MAX_MISCONFIGURED if answered else BACKOFF_MAX
            except Rejected:
                self._answered()
                raise
            else:
                self._answered()
                return repeats
            await asyncio.sleep(min(longest, BACKOFF_FIRST * 2**tries) * random.uniform(0.5, 1.0))  # noqa: S311
            tries = min(tries + 1, 16)

    def _answered(self) -> None:
        self.retrying = False
        self.heard_at = time.monotonic()
        self._status.works()
