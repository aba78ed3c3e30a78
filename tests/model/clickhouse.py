"""The model's ClickHouse: INSERTs whose answer is lost, that come late or never; forgotten tokens; views that fail.

What it assumes of the real one is at ``land``, ``forget`` and ``cut_power``; docs/durability.md states it too.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from schemas.payload import Rows
from service.errors import Rejected, Retryable, ViewFailed
from service.store.token_memory import TokenMemory
from tests.support.fake_clickhouse import FakeClickHouse

#: What becomes of an INSERT. All but the first three leave the service without an answer.
FATES = ("fine", "refused", "error", "lost", "late", "unheard", "hangs", "half")
#: Seconds that ClickHouse is at an INSERT at most: the service says so with each.
INSERT_TIMEOUT = 60.0
#: Seconds that it takes others to fill a quarter of the window of tokens, at least.
QUARTER = 65.0
#: Seconds that ClickHouse is away after a power cut, at least.
AWAY = 1.0
#: Events that the table refuses, and that a view fails on, by the first letter of their names.
BAD, UNVIEWABLE = "b", "v"


class _Late(NamedTuple):
    rows: Rows
    token: str
    past_views: bool
    until: float


class Clickhouse(FakeClickHouse):
    """``time`` is that of the model."""

    def __init__(self, time: Callable[[], float]) -> None:
        super().__init__()
        self.fates: deque[str] = deque()
        self.late: list[_Late] = []
        #: Who waits for the answer to an INSERT that hangs.
        self.waiting: list[asyncio.Task[None] | None] = []
        self.mended = False
        self.time = time  # type: ignore[method-assign]
        self.script = self._refuse_bad
        self.view = self._fail_on_view
        self._back_at = 0.0

    def _refuse_bad(self, names: list[str], token: str) -> None:
        if not self.mended and any(name.startswith(BAD) for name in names):
            raise Rejected("no place for this", 117)

    def _fail_on_view(self, names: list[str]) -> None:
        if any(name.startswith(UNVIEWABLE) for name in names):
            raise ViewFailed("while pushing to view", 395)

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.time() < self._back_at:
            raise Retryable("connection refused")

    async def ping(self) -> None:
        await self._answer()

    async def stored(self, segment: str, since: int, until: int) -> list[tuple[str, int, int]]:
        await self._answer()
        return await super().stored(segment, since, until)

    async def is_running(self, token: str) -> bool:
        await self._answer()
        return any(one.token == token for one in self.late)

    async def token_memory(self) -> TokenMemory:
        await self._answer()
        return await super().token_memory()

    async def known_ids(self, ids: Sequence[int], window: float) -> set[int]:
        await self._answer()
        return await super().known_ids(ids, window)

    async def remember_ids(self, segment: str, since: int, until: int) -> None:
        await self._answer()
        await super().remember_ids(segment, since, until)

    async def insert(self, rows: Rows, token: str, *, past_views: bool = False) -> None:
        fate = self.fates.popleft() if self.fates else "fine"
        await self._answer()
        late = _Late(rows, token, past_views, self.time() + INSERT_TIMEOUT)
        if fate == "refused":
            raise Retryable("connection refused")
        if fate == "error":
            raise Retryable("memory limit", 241)
        if fate in ("late", "hangs"):
            self.late.append(late)
        if fate == "hangs":
            await self._hang()
        if fate == "unheard":
            self._do(late)
        if fate == "half":
            self._halve(late)
        if fate != "fine":
            raise Retryable("no answer", may_run=True)
        self.take(rows, token, past_views=past_views)
        await asyncio.sleep(0)

    async def _hang(self) -> None:
        task = asyncio.current_task()
        self.waiting.append(task)
        try:
            await asyncio.sleep(INSERT_TIMEOUT)
        finally:
            self.waiting.remove(task)

    def _do(self, late: _Late) -> None:
        with contextlib.suppress(Rejected, ViewFailed):  # nobody hears of it
            self.take(late.rows, late.token, past_views=late.past_views)

    def _halve(self, late: _Late) -> None:
        """The power is cut when the rows of the first month are stored: none if one row is bad."""
        with contextlib.suppress(Rejected):
            self.script([row[1] for row in late.rows.decode()], late.token)
            self._do(late._replace(rows=late.rows.without_months({202612})))
        self.cut_power()

    def land(self, index: int) -> None:
        """One of the INSERTs that are on their way comes to its end: not later than its time-out."""
        late = self.late.pop(index % len(self.late))
        if self.time() < late.until:
            self._do(late)

    def forget(self) -> None:
        """Other writers fill a quarter of the window, at once: assumed not to happen twice in a minute."""
        self.add_blocks(self._window // 4)

    def cut_power(self) -> None:
        """What is on its way is gone, and so are the tokens: ClickHouse never syncs them. Stored rows stay."""
        self.late.clear()
        self.tokens.clear()
        self._back_at = self.started_at = self.time() + AWAY
