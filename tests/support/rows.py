"""Rows for tests that talk to the store past the HTTP interface."""

import json
from collections.abc import Sequence
from typing import Any

from schemas.parse import parse_batch
from schemas.payload import EncodedRows, Header, Rows, encode_rows
from schemas.rows import CURRENT, Row, make_rows
from service.store.store import Store

RECEIVED_AT = 1_795_552_504_123_456


def rows_of(*events: dict[str, Any], sent_at: object = None, received_at: int = RECEIVED_AT) -> list[Row]:
    batch = parse_batch(json.dumps({"events": events, "client_id": "c", "sent_at": sent_at}).encode())
    return decoded(make_rows(batch, source="tests", received_at=received_at))


def decoded(*parts: EncodedRows, header: Header = CURRENT) -> list[Row]:
    return Rows(header, parts).decode()


def encoded(rows: Sequence[tuple[Any, ...]], header: Header = CURRENT) -> Rows:
    return Rows(header, [encode_rows(rows, header.types)])


async def insert(store: Store, rows: list[Row], token: str) -> None:
    await store.insert(encoded(rows), token)


async def count(store: Store) -> int:
    return int((await store.query("SELECT count() FROM events"))[0][0])
