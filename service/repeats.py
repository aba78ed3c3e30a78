"""Repeats: events that a client sent again, recognised by the id that the client made.

Looked for in ClickHouse before each try of an insert, so that it holds across restarts and instances.
What is left out may differ between two tries with one token, and that is safe: had an earlier try been
stored, its own rows are found too, and the token keeps the rest of the batch from coming twice.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from schemas.payload import AnyRow, Header, Rows, encode_rows
from schemas.rows import BY_CLIENT

#: What the payload of a row with an id made by a client contains, that of others hardly ever: ``BY_CLIENT`` as text
#: of MessagePack. So most batches need not be decoded.
_MARK = bytes([0xA0 | len(BY_CLIENT)]) + BY_CLIENT.encode()


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

    async def without(self, rows: Rows) -> Rows:
        """The rows that are no repeats, in order. A batch without ids made by clients costs no query."""
        if not may_have_client_ids(rows):
            return rows
        decoded = await asyncio.to_thread(rows.decode)
        by, at, of = (rows.header.names.index(name) for name in ("id_origin", "received_at", "event_id"))
        ids: dict[int, int] = {}  # id of a client's event: index of the first row that has it
        first = [
            row[by] != BY_CLIENT or ids.setdefault(int.from_bytes(row[of], "big"), index) == index
            for index, row in enumerate(decoded)
        ]
        if not ids:
            return rows
        since = min(row[at] for row in decoded) - self._window
        for one in await self._store.known_ids(list(ids), since):
            first[ids[one]] = False
        if all(first):
            return rows
        return await asyncio.to_thread(
            _only, rows.header, [row for row, keep in zip(decoded, first, strict=True) if keep]
        )


def may_have_client_ids(rows: Rows) -> bool:
    """Whether some of the rows may have an id made by a client; to be sure they must be decoded."""
    if "id_origin" not in rows.header.names:
        return False  # written by a version that took no ids
    return any(_MARK in part.payload for part in rows.parts)


def _only(header: Header, rows: Sequence[AnyRow]) -> Rows:
    return Rows(header, [encode_rows(rows, header.types)] if rows else [])


async def is_stored(store: Lookups, rows: Rows) -> bool:
    """Whether an earlier try of these rows, whose outcome nobody heard, has stored them.

    ClickHouse remembers tokens in a file that it does not sync: after a power cut it may have the rows and
    not the token. A batch is stored whole in each month of arrival, so one row of each month tells.

    Rows with ids made by clients are not asked for: the view behind the table may lack them, and then only
    another insert fills it. (If it does not lack them, ``Repeats`` has left them out.)
    """
    needed = ("event_id", "timestamp", "session_id", "received_at", "id_origin")
    if not set(needed) <= set(rows.header.names):
        return False
    event_id, timestamp, session_id, received_at, id_origin = map(rows.header.names.index, needed)
    decoded = await asyncio.to_thread(rows.decode)
    if any(row[id_origin] == BY_CLIENT for row in decoded):
        return False
    months = {_month(row[received_at]): row for row in decoded}
    for row in months.values():
        if not await store.holds(row[event_id], row[timestamp], row[session_id]):
            return False
    return True


def _month(milliseconds: int) -> tuple[int, int]:
    time = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return time.year, time.month
