"""Repeats: events that a client sent again, recognised by the id that the client made.

Looked for in ClickHouse before each try of an insert, so that it holds across restarts and instances.
What is left out may differ between two tries with one token, and that is safe: had an earlier try been
stored, its own rows are found too, and the token keeps the rest of the batch from coming twice.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from schemas.rows import BY_CLIENT, Header

Row = tuple[Any, ...]


class KnownIds(Protocol):
    """What looking for repeats needs of the store."""

    async def known_ids(self, ids: Sequence[int], since: int) -> set[int]:
        """Which of these ids are in the table, of events accepted at ``since`` (ms since 1970) or later."""


class Repeats:
    """Finds the repeats in a batch. ``window`` is in seconds, by the times of arrival."""

    def __init__(self, store: KnownIds, window: float) -> None:
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
