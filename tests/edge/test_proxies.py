"""Behind proxies that keep connections to the service and share them out: no client gets what is another's."""

import http.client
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import find
from tests.support.proxies import KINDS, FrontProxy
from tests.support.service import BATCH, EVENTS, READ, WRITE, Service

NOWHERE = "http://127.0.0.1:1/analytics"
EVENT = json.dumps({"event_name": "e", "properties": {"a": "a" * 100_000}}).encode()
ROUNDS = 15


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("proxied"), ANALYTICS_CLICKHOUSE_DSN=NOWHERE).start()
    yield service
    service.end()
    assert "Traceback" not in service.log()


@pytest.fixture(params=KINDS)
def proxy(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Iterator[FrontProxy]:
    proxy = FrontProxy(request.param, tmp_path / "proxy", service.port)
    yield proxy
    proxy.close()


#: Method, path, token, bytes of the body, and the status.
REFUSED = [
    ("POST", EVENTS, "no", 200_000, 401),
    ("POST", BATCH, READ, 200_000, 403),
    ("POST", "/nowhere", WRITE, 200_000, 404),
    ("PUT", EVENTS, WRITE, 200_000, 405),
    ("POST", EVENTS, WRITE, 6_000_000, 413),
]


def refused(proxy: FrontProxy, stop: threading.Event, seen: list[int]) -> None:
    """Send what is refused before its body is read, again and again."""
    kept = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    while not stop.is_set():
        for method, path, token, size, _ in REFUSED:
            try:
                kept.request(method, path, bytes(size), {"Authorization": f"Bearer {token}"})
                answer = kept.getresponse()
                answer.read()
                seen.append(answer.status)
            except (OSError, http.client.HTTPException):  # the proxy has closed: it may, while the body comes
                kept.close()
    kept.close()


def test_refused_bodies_spoil_no_other_clients_requests(proxy: FrontProxy) -> None:
    stop, seen = threading.Event(), list[int]()
    senders = [threading.Thread(target=refused, args=[proxy, stop, seen]) for _ in range(2)]
    for sender in senders:
        sender.start()
    kept = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    statuses = []
    for _ in range(ROUNDS):
        for connection in (kept, http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)):
            connection.request("POST", EVENTS, EVENT, {"Authorization": f"Bearer {WRITE}"})
            answer = connection.getresponse()
            statuses.append((answer.status, answer.read()[:16]))
            if connection is not kept:
                connection.close()
    stop.set()
    for sender in senders:
        sender.join()
    kept.close()
    assert statuses == [(200, b'{"success":true,')] * 2 * ROUNDS
    assert set(seen) <= {status for *_, status in REFUSED} | {502}, "502 is the proxy's own word, to the refused"
    assert set(seen) & {401, 404}


def test_refused_bodies_over_http_2_spoil_no_other_streams(proxy: FrontProxy, tmp_path: Path) -> None:
    (tmp_path / "event").write_bytes(EVENT)
    (tmp_path / "large").write_bytes(bytes(6_000_000))
    url = f"http://127.0.0.1:{proxy.http2_port}{EVENTS}"
    common = ["--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}\\n"]
    good = [*common, "--header", f"Authorization: Bearer {WRITE}", "--data-binary", f"@{tmp_path}/event", url]
    unknown = [*common, "--header", "Authorization: Bearer no", "--data-binary", f"@{tmp_path}/event", url]
    large = [*common, "--header", f"Authorization: Bearer {WRITE}", "--data-binary", f"@{tmp_path}/large", url]
    streams = [option for _ in range(ROUNDS) for one in (unknown, good, large, good) for option in ("--next", *one)]
    done = subprocess.run(
        [find("curl"), "--parallel", "--parallel-max", "8", "--http2-prior-knowledge", *streams[1:]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = [int(line) for line in done.stdout.split()]
    print(found, done.stderr)
    assert found.count(200) == 2 * ROUNDS
