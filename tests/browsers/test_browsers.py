"""What browsers need: CORS by exact origins, bodies without a preflight, beacons, and a path of one's own choice."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.edge import access_tokens
from service.origins import parse_origin
from tests.cli.test_start import NOWHERE, refused, run
from tests.support.browser import open_browser
from tests.support.clickhouse import query
from tests.support.service import BATCH, EVENTS, HEALTH, LOSS, READ, STATS, WRITE, Answer, Service
from tests.support.wire import BODY, exchange, head, post, statuses

pytestmark = pytest.mark.quick

SHOP, LOCAL, OTHER = "https://shop.example", "http://localhost:3000", "https://other.example"
BEACON = f"{EVENTS}/beacon"
BATCH_BODY = b'{"events":[' + BODY + b"]}"
CLOSE = "Connection: close"
ROUTES = [("POST", EVENTS), ("POST", BATCH), ("POST", BEACON), ("GET", STATS), ("GET", LOSS), ("GET", HEALTH)]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tokens by name: of one page, of any page, and of more than a page may have. ``file`` holds them."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    return {
        "file": str(file),
        "shop": access_tokens.create(file, "shop", ["write"], [SHOP.upper() + ":443", LOCAL]),
        "any": access_tokens.create(file, "any", ["write"]),
        "both": access_tokens.create(file, "both", ["write", "read"]),
        "shop-reads": access_tokens.create(file, "shop-reads", ["read"], [SHOP]),
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, known: dict[str, str]) -> Iterator[Service]:
    """One service for all tests that need no ClickHouse; at the end no token is in its log."""
    service = Service(
        tmp_path_factory.mktemp("browsers"),
        ANALYTICS_CLICKHOUSE_DSN=NOWHERE,
        ANALYTICS_TOKENS_FILE=known["file"],
        ANALYTICS_CORS_ORIGINS=f"{SHOP}, HTTP://localhost:3000 ,",
        ANALYTICS_LOG_LEVEL="debug",
        ANALYTICS_MAX_BODY_BYTES=10_000,
        ANALYTICS_BODY_TIMEOUT=1,
    ).start()
    yield service
    assert service.stop() == 0
    log = service.log()
    assert "Traceback" not in log
    assert not [token for token in (*known.values(), WRITE, READ) if token != known["file"] and token in log]


def beacon(service: Service, token: str, body: Any = BATCH_BODY, **headers: str) -> Answer:
    return service.send("POST", f"{BEACON}?token={token}", body, **headers)


def allowed(answer: Answer) -> str | None:
    return answer.headers.get("Access-Control-Allow-Origin")


# -- CORS -------------------------------------------------------------------------------------


def may_send(service: Service, origin: str, *asked: str) -> list[str]:
    """The headers that a preflight allows, of one that asks for these."""
    request = [f"OPTIONS {EVENTS} HTTP/1.1", "Host: x", f"Origin: {origin}", "Access-Control-Request-Method: POST"]
    lines = [*request, *(f"Access-Control-Request-Headers: {one}" for one in asked), "Connection: close", "", ""]
    answer = exchange(service, ["\r\n".join(lines).encode()]).decode()
    assert answer.startswith("HTTP/1.1 204 ")
    varies = "Origin, Access-Control-Request-Headers" if asked else "Origin"
    assert f"\r\nVary: {varies}\r\n" in answer
    found = answer.partition("\r\nAccess-Control-Allow-Headers: ")[2].partition("\r\n")[0]
    return found.split(", ")


def test_a_page_may_send_the_headers_that_it_asks_for(service: Service) -> None:
    usual = may_send(service, SHOP)
    assert "Authorization" in usual
    for asked in ("traceparent", "authorization,traceparent", "TraceParent , Content-Type", "a,traceparent,a"):
        assert {"traceparent"} <= set(may_send(service, SHOP, asked)) - set(usual) <= {"traceparent", "a"}
    assert may_send(service, SHOP, "sentry-trace,baggage", "b3") == [*usual, "sentry-trace", "baggage", "b3"]
    for asked in ("", ",", "*", "a b", "a:b", "a\tb", '"a"', "é", "x" * 101, "x," * 2000):
        assert may_send(service, SHOP, asked) == usual, asked


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("origin", [SHOP, LOCAL])
def test_every_answer_tells_a_page_of_a_known_origin_that_it_may_read_it(
    service: Service, method: str, path: str, origin: str
) -> None:
    body = b"{}" if method == "POST" else None
    wanted = "POST" if method == "POST" else "GET"
    preflight = service.send("OPTIONS", path, Origin=origin, Access_Control_Request_Method=wanted)
    assert (preflight.status, preflight.body, allowed(preflight)) == (204, b"", origin)
    assert wanted in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert preflight.headers["Access-Control-Max-Age"] == "7200"
    found = [preflight, *(service.send(method, path, body, token, Origin=origin) for token in (None, WRITE, READ))]
    assert {401, 422, 403} <= {one.status for one in found} or path in (BEACON, STATS, LOSS, HEALTH)
    for answer in found:
        assert allowed(answer) == origin
        assert answer.headers["Vary"] == "Origin"
        assert {"Retry-After", "X-Request-ID"} <= set(answer.headers["Access-Control-Expose-Headers"].split(", "))


@pytest.mark.parametrize(
    "origin", [None, OTHER, "null", "https://shop.example:444", "http://shop.example", "https://shop.example.evil", "*"]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_other_pages_are_told_nothing(service: Service, method: str, path: str, origin: str | None) -> None:
    headers = {"Origin": origin} if origin else {}
    found = [
        service.send("OPTIONS", path, Access_Control_Request_Method=method, **headers),
        service.send(method, path, b"{}" if method == "POST" else None, WRITE, **headers),
    ]
    assert found[0].status == 403
    assert not [name for answer in found for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("closing", [(), (CLOSE,)], ids=["kept", "closed"])
@pytest.mark.parametrize(("body", "status"), [(BODY, b"200"), (b"{}", b"422"), (b"x" * 10_001, b"413")])
def test_posts_of_events_are_readable_by_whichever_way_they_go(
    service: Service, body: bytes, status: bytes, closing: tuple[str, ...]
) -> None:
    last = [] if closing else [head(CLOSE, method="GET", path="/livez")]
    received = exchange(service, [post(body, f"Origin: {SHOP}", *closing), *last])
    first = received.partition(b"\r\n\r\n")[0]
    assert first.split()[1] == status
    assert f"\r\nAccess-Control-Allow-Origin: {SHOP}\r\n".encode() in first
    assert b"\r\nVary: Origin" in first


def test_a_body_that_is_late_is_refused_readably(service: Service) -> None:
    received = exchange(service, [post(BODY, f"Origin: {SHOP}")[:-5]])
    assert statuses(received) == [408]
    assert f"\r\nAccess-Control-Allow-Origin: {SHOP}\r\n".encode() in received


def test_paths_outside_of_the_prefix_are_not_for_pages(service: Service) -> None:
    for path in ("/livez", "/openapi.json", "/metrics", f"{EVENTS}x"):
        assert allowed(service.send("GET", path, Origin=SHOP)) is None
        assert service.send("OPTIONS", path, Origin=SHOP, Access_Control_Request_Method="GET").status in (404, 405)
    assert allowed(service.send("GET", f"{EVENTS}/unknown", Origin=SHOP)) == SHOP


def test_without_the_setting_pages_are_told_nothing(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE).start()
    assert service.send("OPTIONS", EVENTS, Origin=SHOP, Access_Control_Request_Method="POST").status == 405
    answer = service.post({"event_name": "e"}, Origin=SHOP)
    assert (answer.status, allowed(answer)) == (200, None)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://shop.example", SHOP),
        ("HTTPS://Shop.Example:443", SHOP),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_origin_has_the_form_in_which_browsers_send_it(text: str, origin: str) -> None:
    assert parse_origin(text) == parse_origin(origin) == origin


@pytest.mark.parametrize(
    "text",
    ["", "*", "null", "shop.example", "https://", "https://*.example", "https://shop.example/", "https://shop.example/a",
     "https://shop.example?", "https://user@shop.example", "https://shop.example:", "https://shop.example:0",
     "https://shop.example:65536", "https://shop.example:x", "https://bücher.example", "https://a b", "https://a\n",
     "https://shop.example.", "//shop.example", "https:shop.example", "https://shop.example:٣"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        parse_origin(text)
    with pytest.raises(Exception, match="is not an origin"):
        access_tokens.create(tmp_path / "t.json", "web", ["write"], [text])
    assert not (tmp_path / "t.json").exists()


# -- a token's own origins --------------------------------------------------------------------


@pytest.mark.parametrize("closing", [{}, {"Connection": "close"}], ids=["kept", "closed"])
def test_a_token_with_origins_is_for_their_pages_and_for_what_is_no_browser(
    service: Service, known: dict[str, str], closing: dict[str, str]
) -> None:
    def found(origin: str | None, token: str, path: str = EVENTS) -> int:
        headers = closing | ({"Origin": origin} if origin else {})
        return service.post({"event_name": "e"}, path, token, **headers).status

    assert [found(origin, known["shop"]) for origin in (None, SHOP, LOCAL, OTHER, "null")] == [200, 200, 200, 403, 403]
    assert [found(origin, known["any"]) for origin in (None, SHOP, OTHER)] == [200] * 3
    reads = [
        service.send("GET", STATS, token=known["shop-reads"], **({"Origin": origin} if origin else {})).status
        for origin in (None, SHOP, OTHER)
    ]
    assert reads == [503, 503, 403], "503: there is no ClickHouse"


@pytest.mark.starts
def test_the_command_makes_tokens_with_origins_and_lists_them(tmp_path: Path) -> None:
    new = ("token", "new", "--name", "web", "--scope", "write")
    assert "'https://a/b' is not an origin" in refused(run(tmp_path, *new, "--origin", "https://a/b"))
    assert run(tmp_path, *new, "--origin", SHOP, "--origin", LOCAL, "--origin", f"{SHOP}:443").returncode == 0
    assert run(tmp_path, "token", "list").stdout == f"web\twrite\t{LOCAL}\t{SHOP}\n"
    path = tmp_path / "data" / "tokens.json"
    path.write_text(path.read_text().replace(SHOP, f"{SHOP}/"))
    assert "is damaged: tokens.0.origins.1: " in refused(run(tmp_path, "token", "list"))


# -- beacons ----------------------------------------------------------------------------------


def test_a_beacon_has_its_token_in_the_address_and_any_content_type(service: Service, known: dict[str, str]) -> None:
    for content_type in ("text/plain;charset=UTF-8", "application/json", "application/octet-stream", "nonsense"):
        answer = beacon(service, known["any"], Content_Type=content_type)
        assert (answer.status, answer.json["events_queued"]) == (200, 1)
        assert allowed(answer) is None
    assert service.send("POST", f"{BEACON}?a=1&token={known['any']}", BATCH_BODY).status == 200


def test_of_a_beacon_the_valid_events_are_kept_since_nobody_reads_the_answer(
    service: Service, known: dict[str, str]
) -> None:
    ack = beacon(service, known["any"], {"events": [{"event_name": "a"}, {"event_name": ""}, 5]}).json
    assert (ack["events_queued"], ack["events_failed"], len(ack["errors"])) == (1, 2, 2)
    for body in (b"", b"{}", BODY, b'{"events":[]}', b'{"events":[{"event_name":""}]}'):
        assert beacon(service, known["any"], body).status == 422


def test_a_token_in_an_address_may_do_nothing_but_write(service: Service, known: dict[str, str]) -> None:
    assert [beacon(service, token).status for token in (WRITE, READ, known["both"], "unknown", "")] == [
        200, 403, 403, 401, 401,
    ]  # fmt: skip
    assert service.post(BATCH_BODY, BEACON).status == 401, "a header does not count here"
    assert beacon(service, f"{WRITE}&token={WRITE}").status == 401
    assert service.send("POST", f"{BATCH}?token={WRITE}", BATCH_BODY).status == 401, "nor an address elsewhere"
    assert service.send("GET", f"{STATS}?token={READ}").status == 401


def test_a_beacon_of_a_token_with_origins_must_name_one_of_them(service: Service, known: dict[str, str]) -> None:
    assert beacon(service, known["shop"]).status == 403
    assert beacon(service, known["shop"], Origin=OTHER).status == 403
    answer = beacon(service, known["shop"], Origin=SHOP)
    assert (answer.status, allowed(answer)) == (200, SHOP)


def test_a_token_in_an_address_is_in_no_log_and_no_answer(service: Service) -> None:
    secret = "secret-in-the-address"
    path = f"{BEACON}?token={secret}"
    tried = [
        head(f"Content-Length: {len(BATCH_BODY)}", CLOSE, path=path) + BATCH_BODY,
        head("Content-Length: 1", CLOSE, path=f"{path}&token={secret}") + b"x",
        head("Content-Length: 99999", CLOSE, path=path),
        head("Content-Length: 5", path=path) + b"x",
        head("Content-Length: 1", "Content-Length: 2", path=path),
        head("Content-Length: 1", "Expect: x", CLOSE, path=f"{path}%ff%zz") + b"x",
        head("Transfer-Encoding: chunked", path=path) + b"zz\r\n",
        head(CLOSE, method="GET", path=path),
        head(CLOSE, method="OPTIONS", path=path),
        head(CLOSE, method=f"POST {path}", path=path),
        head(CLOSE, path=path, version="2.0"),
        head(CLOSE, path=path + "a" * 5000),
        head(CLOSE, path=f"http://[::1{path}"),
        head(CLOSE, path=f"{path}\xff"),
        head("X: a\r\n b", path=path),
        head(CLOSE, path=f"{EVENTS}/bacon?token={secret}"),
        head(CLOSE, method="GET", path=f"{LOSS}?token={secret}", token=READ),
        f"POST {path}\r\n\r\n".encode(),
    ]
    for request in tried:
        received = exchange(service, [request])
        assert all(status >= 400 for status in statuses(received))
        assert secret.encode() not in received, received
    assert secret not in service.log()


# -- the path ---------------------------------------------------------------------------------


def test_the_routes_are_where_the_prefix_says_and_nowhere_else(
    make_service: Callable[..., Service], server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_PATH_PREFIX="/x/y-1", ANALYTICS_CORS_ORIGINS=SHOP).start()
    assert service.post(b"{}", "/X/y-1/batch/").json == {"detail": "Not Found; the path is /x/y-1/batch"}
    assert service.post(b"{}", f"{EVENTS}/").json == {"detail": "Not Found"}
    event = {"event_name": "e", "session_id": "s", "sequence": 1}
    assert [service.post(event, "/x/y-1").status, service.post({"events": [event]}, "/x/y-1/batch").status] == [
        200,
        200,
    ]
    assert service.send("POST", f"/x/y-1/beacon?token={WRITE}", {"events": [event]}).status == 200
    for path in ("/x/y-1/stats", "/x/y-1/loss?session_id=s", "/x/y-1/health"):
        assert service.get(path).status == 200
    assert allowed(service.post(event, "/x/y-1", Origin=SHOP)) == SHOP
    for method, path in ROUTES:
        assert service.send(method, path, event, WRITE, Origin=SHOP).status == 404
    paths = service.get("/openapi.json", token=None).json["paths"]
    moved = {path for path in paths if path not in ("/livez", "/readyz")}
    assert moved >= {f"/x/y-1{path}" for path in ("", "/batch", "/beacon", "/stats", "/loss", "/health")}
    assert all(path.startswith("/x/y-1") for path in moved)
    assert "/x/y-1 -H" in service.log(), "the command that the start shows"


# -- a real browser ---------------------------------------------------------------------------

_SEND = """async ([url, write, read]) => {
    const event = (name, more) => ({event_name: name, ...more});
    const post = (path, body, more) => fetch(url + path, {method: "POST", body: JSON.stringify(body), ...more});
    const bearer = (token) => ({headers: {Authorization: `Bearer ${token}`}});
    const refused = await post("", {}, bearer(write));
    const full = await post("/batch", {events: Array(100).fill(event("batch"))}, bearer(write));
    const limited = await post("/batch", {events: [event("too much")]}, bearer(write));
    const health = await fetch(url + "/health");
    const beacons = [
        JSON.stringify({events: [event("text")]}),
        new Blob([JSON.stringify({events: [event("json")]})], {type: "application/json"}),
    ].map((body) => navigator.sendBeacon(`${url}/beacon?token=${read}`, body));
    return {
        statuses: [refused.status, full.status, limited.status, health.status],
        fault: (await refused.json()).detail[0].type,
        wait: limited.headers.get("Retry-After"),
        id: full.headers.get("X-Request-ID"),
        beacons,
    };
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a shop</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[str]:
    """The origin of a page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_page_of_a_known_origin_posts_reads_errors_and_sends_beacons(
    make_service: Callable[..., Service], server_dsn: str, shop: str, tmp_path: Path
) -> None:
    beacons = access_tokens.create(tmp_path / "tokens.json", "beacons", ["write"], [shop])
    service = make_service(
        server_dsn,
        ANALYTICS_TOKENS_FILE=tmp_path / "tokens.json",
        ANALYTICS_CORS_ORIGINS=shop,
        ANALYTICS_RATE_LIMIT=1,
    ).start()
    url = f"http://127.0.0.1:{service.port}{EVENTS}"
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(shop)
        found = page.evaluate(_SEND, [url, WRITE, beacons])
        stored = "SELECT event_name, source FROM events WHERE source = 'beacons' ORDER BY 1"
        service.wait_for_total(102)
        assert query(server_dsn, stored) == [["json", "beacons"], ["text", "beacons"]]
    assert found["statuses"] == [422, 200, 429, 200], json.dumps(found)
    assert found["fault"] == "missing"
    assert int(found["wait"]) > 0
    assert found["id"]
    assert found["beacons"] == [True, True]
