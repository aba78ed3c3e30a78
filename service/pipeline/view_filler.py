"""Fills views that failed, with the rows that the table has and a materialized view behind it has missed.

ClickHouse stores an INSERT in the table even if a view fails. If the rows are sent again with the same token, the table
does not store them again, and a view that has been repaired gets them. That is safe only while ClickHouse certainly
remembers the token: it has not restarted since, and the table has had less than half as many INSERTs as it remembers.
After that we give up, and the log names the segment: docs/operations.md says how to fill the view from the table.
"""

import asyncio
import logging
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from schemas.payload import Rows
from service.errors import Retryable, StoreError, ViewFailed
from service.store.token_memory import TokenMemory

#: Bytes of rows that are kept in memory for views: a failing view must not fill it.
KEPT_MAX_BYTES = 32 * 2**20
#: Seconds between two tries, at first and at most.
BACKOFF_FIRST, BACKOFF_MAX = 0.5, 15.0
_log = logging.getLogger(__name__)


class FillerStore(Protocol):
    """What is needed of the store. Each raises StoreError."""

    async def insert(self, rows: Rows, token: str, *, past_views: bool = False) -> None:
        """Insert one block."""

    async def token_memory(self) -> TokenMemory:
        """What shows whether ClickHouse still remembers a token."""


@dataclass
class _Missed:
    rows: Rows
    token: str
    size: int
    sent_at: float
    blocks: int


class ViewFiller:
    """Keeps the rows that views have missed, and sends them again until they take them."""

    def __init__(self, store: FillerStore) -> None:
        self._store = store
        self._missed: deque[_Missed] = deque()
        self._size = 0
        self._added = asyncio.Event()

    async def add(self, rows: Rows, token: str, sent_at: float, error: ViewFailed) -> None:
        """Keep these rows: they were stored after ``sent_at``, on the monotonic clock, and a view has failed."""
        size = sum(len(part.payload) for part in rows.parts)
        try:
            memory = await self._store.token_memory()
        except StoreError:
            memory = TokenMemory(0, 0, 0)
        if not memory.window or self._size + size > KEPT_MAX_BYTES:
            self._give_up(token, str(error))
            return
        _log.warning("a view lacks the rows of segment %s, which will be sent again: %s", token, error)
        self._missed.append(_Missed(rows, token, size, sent_at, memory.blocks))
        self._size += size
        self._added.set()

    async def run(self) -> None:
        """Fill views for ever, the oldest rows first: while those fail, the others are not tried."""
        pause = BACKOFF_FIRST
        while True:
            if not self._missed:
                self._added.clear()
                await self._added.wait()
                pause = BACKOFF_FIRST
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            try:
                filled = await self._fill(self._missed[0])
            except Retryable:
                pause = min(BACKOFF_MAX, pause * 2)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the others may not have it
                self._give_up(self._missed[0].token, str(error))
            else:
                if filled:
                    pause = 0.0
                    _log.info("a view that had failed now has the rows of segment %s", self._missed[0].token)
            self._size -= self._missed.popleft().size

    def close(self) -> None:
        """Stop filling."""
        for missed in self._missed:
            self._give_up(missed.token, "the service stops")

    async def _fill(self, missed: _Missed) -> bool:
        memory = await self._store.token_memory()
        since = time.monotonic() - missed.sent_at
        if memory.up < since or memory.blocks - missed.blocks >= memory.window // 2:
            self._give_up(missed.token, "ClickHouse may have forgotten the INSERT")
            return False
        await self._store.insert(missed.rows, missed.token)
        return True

    def _give_up(self, token: str, reason: str) -> None:
        _log.error(
            "a view lacks the rows of segment %s: fill it from the table, as docs/operations.md says: %s", token, reason
        )
