"""A service with its SQL port open, and another database beside the events of which nobody may learn."""

import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.support.clickhouse import query
from tests.support.service import READ, Service

SECRET = "hunter2"
#: Events of the service, one of each name.
EVENTS = 100
_BESIDE = [
    "CREATE DATABASE IF NOT EXISTS {other}",
    f"CREATE TABLE {{other}}.secrets ENGINE = MergeTree ORDER BY word AS SELECT '{SECRET}' AS word",
    "CREATE DICTIONARY {other}.words (word String, n UInt8) PRIMARY KEY word"
    " SOURCE(CLICKHOUSE(DB '{other}' TABLE 'secrets')) LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)",
]
_MAKE_EMBEDDED = "import chdb, sys; c = chdb.connect(sys.argv[1]); [c.query(one) for one in sys.argv[2:]]; c.close()"


class Answered(NamedTuple):
    """An answer of the port: ``code`` is ClickHouse's, 0 if there is none."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def code(self) -> int:
        return int(self.headers.get("X-ClickHouse-Exception-Code", 0))

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class Door:
    """The SQL port of a running service."""

    def __init__(self, service: Service, database: str, other: str) -> None:
        self.service, self.database, self.other = service, database, other
        found = re.search(r"SQL +http://127\.0\.0\.1:(\d+)", service.log())
        assert found, service.log()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}/"

    def ask(self, sql: str | bytes | None, *, headers: dict[str, str] | None = None, **fields: object) -> Answered:
        """Ask with the read token, by POST if there is a body."""
        body = sql.encode(errors="surrogateescape") if isinstance(sql, str) else sql
        url = f"{self.url}?{urllib.parse.urlencode(fields)}"
        sent = {"X-ClickHouse-Key": READ} if headers is None else headers
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, sent), timeout=60) as answer:
                return Answered(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answered(error.code, error.read(), dict(error.headers))

    def value(self, sql: str, **fields: Any) -> str:
        """The answer of a query that works."""
        answer = self.ask(sql, **fields)
        assert answer.status == 200, (sql, answer)
        return answer.text.rstrip("\n")


def serve_sql(request: pytest.FixtureRequest, folder: Path, **settings: object) -> Iterator[Door]:
    """A service on the kind of ClickHouse that the fixture's parameter names, with events and what lies beside them."""
    embedded = request.param == "embedded"
    database = "analytics" if embedded else f"test_{uuid4().hex[:12]}"
    other = f"{database}_other"
    dsn = "chdb://" if embedded else request.getfixturevalue("clickhouse")(database)
    service = Service(folder / "service", ANALYTICS_CLICKHOUSE_DSN=dsn, ANALYTICS_SQL_PORT=0, **settings)
    statements = [one.format(other=other) for one in _BESIDE]
    if embedded:
        place = service.data / "clickhouse"
        place.mkdir(parents=True)
        subprocess.run([sys.executable, "-c", _MAKE_EMBEDDED, str(place), *statements], check=True)
    else:
        for one in statements:
            query(dsn.replace(f"/{database}", "/default"), one)
    try:
        service.start()
        service.post_batch([{"event_name": f"event_{number}", "session_id": "s"} for number in range(EVENTS)])
        service.wait_for_total(EVENTS)
        yield Door(service, database, other)
    finally:
        service.end()
        if not embedded:
            for one in (other, database):
                query(dsn.replace(f"/{database}", "/default"), f"DROP DATABASE IF EXISTS {one}")
