"""What tests of the tracker share: a browser's tab, what the table has of a session, a server that answers as told."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from playwright.sync_api import Page, Request

from tests.demo import Demo
from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.service import LOSS, Service


class Tab:
    """A page, with the errors that reached it, and the bodies of events that it sent."""

    def __init__(self, page: Page, demo: Demo) -> None:
        self.page = page
        self.demo = demo
        self.errors: list[str] = []
        self.requests: list[Request] = []
        page.on("pageerror", lambda error: self.errors.append(error.message))
        page.on("request", lambda request: self.requests.append(request) if "/analytics/" in request.url else None)

    def open(self, path: str = "/") -> "Tab":
        self.page.goto(f"{self.demo.origin}{path}")
        return self

    def track(self, name: str, **about: Any) -> None:
        self.page.evaluate("([name, about]) => tracker.track(name, about)", [name, about])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate("tracker.status()")
        return found

    def drained(self) -> dict[str, Any]:
        """The status once every event is acknowledged."""
        wait_until(lambda: self.status()["queued"] == 0, 20, lambda: f"{self.status()}")
        return self.status()

    def order(self, quantity: int) -> None:
        self.page.get_by_label("Quantity").fill(str(quantity))
        self.page.get_by_role("button", name="Place order").click()


class Stored(NamedTuple):
    """A row of the table."""

    name: str
    sequence: int
    event_id: str
    properties: dict[str, Any]
    url: str
    client: str


def stored(dsn: str, session: str) -> list[Stored]:
    rows = query(
        dsn,
        "SELECT event_name, sequence, toString(event_id), toString(properties), page_url, client_id FROM events"
        f" WHERE session_id = '{session}' ORDER BY sequence",
    )
    return [Stored(name, number, id_, json.loads(text), *more) for name, number, id_, text, *more in rows]


def whole(service: Service, dsn: str, session: str, events: int) -> list[Stored]:
    """The stored events of a session, once they are so many: each once, numbered without a gap, none missing."""
    rows = wait_until(
        lambda: rows if len(rows := stored(dsn, session)) >= events else None,
        40,
        say=lambda: f"of {events} there are {[row.sequence for row in stored(dsn, session)]}",
    )
    assert [row.sequence for row in rows] == list(range(1, events + 1))
    assert len({row.event_id for row in rows}) == events
    loss = service.get(f"{LOSS}?session_id={session}").json
    assert (loss["sent"], loss["stored"], loss["missing"]) == (events, events, 0)
    return rows


class Scripted:
    """A server that answers batches as told, and notes when they came. For what the service does not do on demand."""

    def __init__(self, answers: list[tuple[int, dict[str, str]]]) -> None:
        self.requests: list[tuple[float, dict[str, str], Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_OPTIONS(self) -> None:
                self._answer(204, {"Access-Control-Allow-Headers": "authorization, prefer"}, b"")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                scripted.requests.append((time.monotonic(), dict(self.headers), body))
                status, headers = answers.pop(0) if answers else (200, {})
                ack = {"success": True, "events_received": len(body["events"]), "events_failed": 0}
                self._answer(status, headers, json.dumps(ack).encode())

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                shared = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Retry-After"}
                for name, value in (shared | headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
