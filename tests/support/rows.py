"""Rows for tests that talk to the store past the HTTP interface."""

import json
from typing import Any

from schemas.parse import parse_batch
from schemas.rows import CURRENT, Row, make_rows, to_columns
from service.store import Store

RECEIVED_AT = 1_795_552_504_123_456


def rows_of(*events: dict[str, Any], sent_at: object = None) -> list[Row]:
    batch = parse_batch(json.dumps({"events": events, "client_id": "c", "sent_at": sent_at}).encode())
    return make_rows(batch, source="tests", received_at=RECEIVED_AT)


async def insert(store: Store, rows: list[Row], token: str) -> None:
    await store.insert(CURRENT, to_columns(rows, CURRENT.types), token)


async def count(store: Store) -> int:
    return int((await store.query("SELECT count() FROM events"))[0][0])
