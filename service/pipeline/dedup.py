"""Repeats: events that a client sent again, recognised by the id that the client made.

ClickHouse is asked for them before each INSERT of rows with such ids, so that they are recognised across restarts and
instances. Two tries with one token may leave out different rows. That is safe: before it sends the second one,
``inserter`` asks which rows the first one has stored.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from schemas.payload import Rows, encode_rows
from schemas.rows import BY_CLIENT


class KnownIds(Protocol):
    """What is needed of the store."""

    async def known_ids(self, ids: Sequence[int], window: float) -> set[int]:
        """Which of these ids were stored within the last ``window`` seconds."""


class Repeats:
    """Finds the repeats in a batch. ``window`` is in seconds and counts from the time of storing."""

    def __init__(self, store: KnownIds, window: float) -> None:
        self._store = store
        self._window = window

    async def without(self, rows: Rows) -> Rows:
        """The rows that are no repeats, in order."""
        if not {"id_origin", "event_id"} <= set(rows.header.names) or not len(rows):
            return rows  # written by a version that did not take ids
        decoded = await asyncio.to_thread(rows.decode)
        by, of = (rows.header.names.index(name) for name in ("id_origin", "event_id"))
        ids: dict[int, int] = {}  # id of a client's event: index of the first row that has it
        first = [
            row[by] != BY_CLIENT or ids.setdefault(int.from_bytes(row[of], "big"), index) == index
            for index, row in enumerate(decoded)
        ]
        if not ids:
            return rows
        for one in await self._store.known_ids(list(ids), self._window):
            first[ids[one]] = False
        if all(first):
            return rows
        kept = [row for row, keep in zip(decoded, first, strict=True) if keep]
        types = rows.header.types
        return Rows(rows.header, [await asyncio.to_thread(encode_rows, kept, types, with_ids=True)] if kept else [])
