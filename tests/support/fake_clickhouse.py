"""A ClickHouse of a hundred lines, for faults that the real one can't be made to have, at moments of a test's choosing.

It has only what the service relies on: an INSERT is one block, stored by month as a whole or not at all; it remembers
the tokens of the last so many INSERTs of anybody, but not through a power cut; a view fills the known ids. If a view
fails, the rows are in the table and the ids are not.
"""

import time
from collections.abc import Callable, Sequence

from schemas.payload import Rows, month_of
from schemas.rows import BY_CLIENT
from service.errors import ViewFailed
from service.store.token_memory import TokenMemory

Script = Callable[[list[str], str], None]


class FakeClickHouse:
    """Takes INSERTs as ClickHouse does. Before each, ``script`` may raise, given the events' names and the token."""

    def __init__(self, window: int = 10_000) -> None:
        self.script: Script = lambda names, token: None
        #: Raises, as a view would, by the names of the events.
        self.view: Callable[[list[str]], None] = lambda names: None
        self.calls: list[tuple[str, list[str]]] = []
        self.asked = 0
        #: What is in the table: the name of each event, its id, the INSERT's token, the month.
        self.table: list[tuple[str, bytes, str, int]] = []
        self.ids: set[int] = set()
        self.tokens: dict[tuple[str, int], int] = {}
        self.blocks = 0
        self.started_at = -1e9
        self.ready = True
        self._window = window

    @property
    def names(self) -> list[str]:
        """The names of the events in the table."""
        return [name for name, *_ in self.table]

    def time(self) -> float:
        """By which it is remembered when a token came."""
        return time.monotonic()

    async def until_ready(self) -> None:
        """It is."""

    async def ping(self) -> None:
        """It answers."""

    async def insert(self, rows: Rows, token: str, *, past_views: bool = False) -> None:
        self.take(rows, token, past_views=past_views)

    def take(self, rows: Rows, token: str, *, past_views: bool) -> None:
        """What becomes of an INSERT."""
        decoded = [dict(zip(rows.header.names, row, strict=True)) for row in rows.decode()]
        names = [row["event_name"] for row in decoded]
        self.calls.append((token, names))
        self.script(names, token)
        self.store(
            [(row["event_name"], row["event_id"], token, month_of(row.get("received_at", 0))) for row in decoded]
        )
        try:
            self.view(names)
        except ViewFailed:
            if not past_views:
                raise
        self.ids |= {int.from_bytes(row["event_id"], "big") for row in decoded if row.get("id_origin") == BY_CLIENT}

    def store(self, rows: list[tuple[str, bytes, str, int]]) -> None:
        """What becomes of an INSERT in the table."""
        for month in sorted({row[3] for row in rows}):
            token = rows[0][2], month
            if token not in self.tokens:
                self.tokens[token] = self.blocks
                self.add_blocks(1)
                self.table += [row for row in rows if row[3] == month]

    def add_blocks(self, count: int) -> None:
        """The table has so many blocks more, of anybody: tokens from before the last ``window`` are forgotten."""
        self.blocks += count
        self.tokens = {token: at for token, at in self.tokens.items() if self.blocks - at <= self._window}

    async def stored(self, segment: str, since: int, until: int) -> list[tuple[str, int, int]]:
        self.asked += 1
        found: dict[tuple[str, int], int] = {}
        for _, _, token, month in self.table:
            if token.startswith(segment) and month_of(since) <= month <= month_of(until):
                found[token, month] = found.get((token, month), 0) + 1
        return [(token, month, count) for (token, month), count in found.items()]

    async def token_memory(self) -> TokenMemory:
        return TokenMemory(self.time() - self.started_at, self.blocks, self._window)

    async def is_running(self, token: str) -> bool:
        return False

    async def known_ids(self, ids: Sequence[int], window: float) -> set[int]:
        return self.ids & set(ids)

    async def remember_ids(self, segment: str, since: int, until: int) -> None:
        self.ids |= {int.from_bytes(one, "big") for _, one, token, _ in self.table if token.startswith(segment)}
