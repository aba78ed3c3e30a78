"""Repeats: events that a client sent again, recognised by the id that the client made.

Looked for in ClickHouse before each try of an insert, so that it holds across restarts and instances.
What is left out may differ between two tries with one token, and that is safe: had an earlier try been
stored, its own rows are found too, and the token keeps the rest of the batch from coming twice.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from schemas.rows import BY_CLIENT, Header

Row = tuple[Any, ...]


class Lookups(Protocol):
    """What is asked of the store here."""

    async def known_ids(self, ids: Sequence[int], since: int) -> set[int]:
        """Which of these ids are in the table, of events accepted at ``since`` (ms since 1970) or later."""

    async def holds(self, event_id: bytes, timestamp: int, session_id: str) -> bool:
        """Whether the table has this event."""


class Repeats:
    """Finds the repeats in a batch. ``window`` is in seconds, by the times of arrival."""

    def __init__(self, store: Lookups, window: float) -> None:
        self._store = store
        self._window = int(window * 1000)

    async def without(self, header: Header, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows that are no repeats, in order. A batch without ids made by clients costs no query."""
        if "id_origin" not in header.names:
            return rows  # written by a version that took no ids
        by, at, of = (header.names.index(name) for name in ("id_origin", "received_at", "event_id"))
        ids: dict[int, int] = {}  # id of a client's event: index of the first row that has it
        first = [
            row[by] != BY_CLIENT or ids.setdefault(int.from_bytes(row[of], "big"), index) == index
            for index, row in enumerate(rows)
        ]
        if not ids:
            return rows
        since = min(row[at] for row in rows) - self._window
        known = await self._store.known_ids(list(ids), since)
        for one in known:
            first[ids[one]] = False
        return [row for row, keep in zip(rows, first, strict=True) if keep]


async def is_stored(store: Lookups, header: Header, rows: Sequence[Row]) -> bool:
    """Whether an earlier try of these rows, whose outcome nobody heard, has stored them.

    ClickHouse remembers tokens in a file that it does not sync: after a power cut it may have the rows and
    not the token. A batch is stored whole in each month of arrival, so one row of each month tells.

    Rows with ids made by clients are not asked for: the view behind the table may lack them, and then only
    another insert fills it. (If it does not lack them, ``Repeats`` has left them out.)
    """
    needed = ("event_id", "timestamp", "session_id", "received_at", "id_origin")
    if not set(needed) <= set(header.names):
        return False
    event_id, timestamp, session_id, received_at, id_origin = map(header.names.index, needed)
    if any(row[id_origin] == BY_CLIENT for row in rows):
        return False
    months = {_month(row[received_at]): row for row in rows}
    for row in months.values():
        if not await store.holds(row[event_id], row[timestamp], row[session_id]):
            return False
    return True


def _month(milliseconds: int) -> tuple[int, int]:
    time = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return time.year, time.month
