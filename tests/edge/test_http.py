"""The HTTP interface of a running service: answers, tokens, encodings, limits. No input gets a 500."""

import gzip
import json
import socket
import time
import zlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.edge.body import zstd
from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.service import BATCH, EVENTS, HEALTH, READ, STATS, WRITE, Answer, Service

EVENT = {"event_name": "hello"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, clickhouse: Any) -> Any:
    """One service for all tests of this file."""
    service = Service(
        tmp_path_factory.mktemp("http"),
        ANALYTICS_CLICKHOUSE_DSN=clickhouse("test_http"),
        ANALYTICS_MAX_BODY_BYTES=100_000,
        ANALYTICS_BODY_TIMEOUT=1,
    ).start()
    yield service
    service.end()
    query(clickhouse("default"), "DROP DATABASE IF EXISTS test_http")


def raw(service: Service, request: bytes, seconds: float = 10) -> bytes:
    """What comes back for these very bytes, until the service closes or says no more."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
                if b"\r\n\r\n" in answer and b"Connection: close" not in request:
                    break
        except TimeoutError:
            pass
        return answer


def test_event_ack(service: Service) -> None:
    before = datetime.now(UTC)
    answer = service.post(EVENT)
    ack = answer.json
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert ack.keys() == {"success", "event_id", "message", "timestamp"}
    assert ack["success"] is True
    assert UUID(ack["event_id"]).version == 7
    assert abs((datetime.fromisoformat(ack["timestamp"]) - before).total_seconds()) < 5


def test_batch_ack(service: Service) -> None:
    answer = service.post({"events": [EVENT] * 100, "client_id": "web"}, BATCH)
    assert answer.status == 200
    ack = answer.json
    assert (ack["success"], ack["events_received"], ack["events_queued"], ack["events_failed"]) == (True, 100, 100, 0)
    assert "errors" not in ack


def test_what_a_client_says_of_its_order_and_its_clock_is_in_the_table(service: Service, clickhouse: Any) -> None:
    event = {"event_name": "e", "session_id": "counted", "timestamp": time.time() - 7200}
    batch = {"events": [event | {"sequence": 1}, EVENT | {"session_id": "counted"}], "sent_at": time.time() - 3600}
    assert service.post(batch, BATCH).status == 200
    assert service.post(event | {"sequence": 2}).status == 200

    def stored() -> list[list[Any]] | None:
        found = query(
            clickhouse("test_http"),
            "SELECT sequence, round(clock_skew / 60000), dateDiff('minute', timestamp, corrected_timestamp) FROM events"
            " WHERE session_id = 'counted' ORDER BY sequence",
        )
        return found if len(found) == 3 else None

    assert wait_until(stored) == [[0, None, 0], [1, 60, 60], [2, None, 0]]


def test_who_did_it_is_in_the_table(service: Service, clickhouse: Any) -> None:
    events = [{"event_name": "e", "session_id": "known", "user_id": user} for user in ("u-1", "é" * 500, "", None)]
    assert service.post_batch(events[1:]).status == 200
    assert service.post(events[0]).status == 200
    of_session = "SELECT user_id FROM events WHERE session_id = 'known' ORDER BY user_id"
    wait_until(lambda: query(clickhouse("test_http"), of_session) == [[""], [""], ["u-1"], ["é" * 500]])
    answer = service.post(events[0] | {"user_id": 5})
    assert (answer.status, answer.json["detail"][0]["loc"]) == (422, ["body", "user_id"])


def test_invalid_batch_is_refused_whole(service: Service) -> None:
    events: list[Any] = [EVENT] * 100
    events[37] = {"event_name": "x", "category": "nope"}
    answer = service.post_batch(events)
    assert answer.status == 422
    [fault] = answer.json["detail"]
    assert fault["loc"] == ["body", "events", 37, "category"]
    assert fault["type"] == "literal_error"


@pytest.mark.parametrize("preference", ["handling=lenient", 'HANDLING="lenient"', "wait=5, handling=lenient;x=1"])
def test_lenient_batch_keeps_the_valid_events_and_lists_the_others(service: Service, preference: str) -> None:
    answer = service.post_batch([EVENT, {"event_name": ""}, EVENT, 7], Prefer=preference)
    assert answer.status == 200
    assert answer.headers["Preference-Applied"] == "handling=lenient"
    ack = answer.json
    assert (ack["success"], ack["events_received"], ack["events_queued"], ack["events_failed"]) == (True, 4, 2, 2)
    assert [fault["loc"][:3] for fault in ack["errors"]] == [["body", "events", 1], ["body", "events", 3]]


def test_lenient_batch_judges_each_event_alone_even_by_what_is_no_json(service: Service) -> None:
    bad = [b'{"event_name":"a","session_id":"\\ud800"}', b'{"event_name":"a","properties":{"x":NaN}}', b"null"]
    body = b'{"client_id":"c","events":[ {"event_name":"a","properties":{"n":1.10}} ,' + b",".join(bad) + b" ]}"
    ack = service.post(body, BATCH, Prefer="handling=lenient").json
    assert (ack["events_queued"], ack["events_failed"]) == (1, 3)
    assert [(fault["loc"][2], fault["type"]) for fault in ack["errors"]] == [
        (1, "string_unicode"),
        (2, "json_invalid"),
        (3, "model_attributes_type"),
    ]


def test_lenient_batch_without_a_valid_event_keeps_nothing(service: Service) -> None:
    answer = service.post_batch([{}, {}], Prefer="handling=lenient")
    assert answer.status == 200
    assert (answer.json["success"], answer.json["events_queued"], answer.json["events_failed"]) == (False, 0, 2)


def test_a_client_id_that_is_no_unicode_is_refused_even_leniently(service: Service) -> None:
    for events in (b'{"event_name":"a"}', b'{"event_name":"a"},{}'):
        body = b'{"client_id":"\\ud800","events":[' + events + b"]}"
        assert service.post(body, BATCH, Prefer="handling=lenient").status == 422
        assert service.post(body, BATCH).status == 422


@pytest.mark.parametrize("body", [{"events": []}, {"events": [EVENT] * 101}, {"events": 1}, {}, [], None])
def test_what_is_no_batch_is_refused_even_leniently(service: Service, body: Any) -> None:
    assert service.post(body, BATCH, Prefer="handling=lenient").status == 422


@pytest.mark.parametrize("preference", ["handling=strict", "handling=lenientx", "respond-async", "xhandling=lenient"])
def test_other_preferences_change_nothing(service: Service, preference: str) -> None:
    answer = service.post_batch([EVENT, {}], Prefer=preference)
    assert answer.status == 422
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "a/b; charset=utf-7"])
def test_json_is_taken_whatever_the_content_type_says(service: Service, content_type: str) -> None:
    assert service.post(EVENT, Content_Type=content_type).status == 200


def test_json_without_a_content_type_is_taken(service: Service) -> None:
    assert service.post(EVENT).status == 200


# -- tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([f"Bearer {WRITE}"], 200),
        ([f"bearer  {WRITE} "], 200),
        ([f"Bearer {WRITE}x"], 401),
        (["Bearer "], 401),
        (["Bearer"], 401),
        ([f"Basic {WRITE}"], 401),
        ([WRITE], 401),
        ([f"Bearer {WRITE}", f"Bearer {WRITE}"], 401),
        ([f"Bearer {'x' * 7000}"], 401),
        (["Bearer \xe9\xff"], 401),
        ([f"Bearer {READ}"], 403),
    ],
)
def test_only_a_known_write_token_posts(service: Service, headers: list[str], status: int) -> None:
    lines = "".join(f"Authorization: {header}\r\n" for header in headers)
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 22\r\nConnection: close\r\n\r\n"
    answer = raw(service, head.encode("latin-1") + b'{"event_name":"hello"}')
    assert int(answer.split()[1]) == status
    if status != 200:
        assert isinstance(json.loads(answer.partition(b"\r\n\r\n")[2])["detail"], str)
    assert (b"WWW-Authenticate: Bearer" in answer) == (status == 401)


def test_a_write_token_does_not_read_and_a_token_in_the_query_does_nothing(service: Service) -> None:
    assert service.get(STATS, WRITE).status == 403
    assert service.get(STATS, None).status == 401
    assert service.get(f"{STATS}?token={READ}", None).status == 401
    assert service.get(STATS, READ).status == 200


def test_a_request_without_token_is_answered_before_its_body_is_sent(service: Service) -> None:
    answer = raw(service, f"POST {BATCH} HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n".encode())
    assert answer.split()[1] == b"401"


@pytest.mark.parametrize(
    ("authorization", "length", "status"),
    [(f"Bearer {WRITE}", 22, 100), ("Bearer no", 22, 401), (f"Bearer {WRITE}", 10**7, 413)],
)
def test_expect_continue_is_answered_by_token_and_length(
    service: Service, authorization: str, length: int, status: int
) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: {length}\r\n"
    answer = raw(service, f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert int(answer.split()[1]) == status


# -- encodings and limits ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("GZip", gzip.compress), ("zstd", zstd.compress), ("identity", bytes)],
)
def test_packed_bodies_are_unpacked(service: Service, encoding: str, pack: Any) -> None:
    body = json.dumps({"events": [EVENT] * 100}).encode()
    assert service.post(pack(body), BATCH, Content_Encoding=encoding).status == 200


#: A frame that holds no data, for whatever else a writer wants to keep (RFC 8878, 3.1.2).
SKIPPED = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
BOMB = b'{"event_name":"' + b"a" * 50_000_000 + b'"}'


@pytest.mark.parametrize("cut", [0, 1, 9])
@pytest.mark.parametrize(
    ("encoding", "pack", "nothing", "behind"),
    [
        ("gzip", gzip.compress, gzip.compress(b"", mtime=0), b""),
        ("x-gzip", gzip.compress, gzip.compress(b"", mtime=0), bytes(700)),
        ("zstd", zstd.compress, SKIPPED, b""),
        ("zstd", zstd.compress, zstd.compress(b""), SKIPPED),
    ],
)
def test_a_body_packed_in_parts_is_unpacked(
    service: Service, encoding: str, pack: Any, nothing: bytes, behind: bytes, cut: int
) -> None:
    """As ``cat a.gz b.gz`` makes it, and what packs block by block."""
    body = b'{"event_name":"hello","page_url":"%b"}' % (b"x" * 9000)
    parts = [body[:cut], b"", body[cut:5000], body[5000:]]
    packed = nothing + b"".join(pack(part) + nothing for part in parts) + behind
    assert service.post(packed, Content_Encoding=encoding).status == 200
    each = b"".join(pack(body[at : at + 1]) for at in range(1000)) + pack(body[1000:])
    assert service.post(each + behind, Content_Encoding=encoding).status == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(BOMB, mtime=0), 413),
        ("zstd", zstd.compress(BOMB), 413),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-6], 400),
        ("gzip", b"".join(gzip.compress(BOMB[:50_000], mtime=0) for _ in range(3)), 413),
        ("zstd", zstd.compress(b"{}") + zstd.compress(BOMB), 413),
        ("gzip", gzip.compress(b"{}", mtime=0) + gzip.compress(b"{}", mtime=0)[:-1], 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"garbage", 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"\0\0garbage", 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + zstd.compress(b" "), 400),
        ("gzip", bytes(20), 400),
        ("zstd", zstd.compress(b"{}") + bytes(4), 400),
        ("zstd", zstd.compress(b"{}") + SKIPPED[:-1], 400),
        ("zstd", SKIPPED[:8] * 2_001, 400),
        ("gzip", gzip.compress(b'{"event_name":"x"}', mtime=0)[:-8] + bytes(8), 400),
        ("gzip", b"garbage", 400),
        ("gzip", b"", 400),
        ("gzip", zlib.compress(b"{}"), 400),
        ("zstd", zstd.compress(b"{}")[:-1], 400),
        ("zstd", b"garbage", 400),
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("foo", b"x", 415),
    ],
)
def test_what_does_not_unpack_is_refused(service: Service, encoding: str, body: bytes, status: int) -> None:
    answer = service.post(body, Content_Encoding=encoding)
    assert answer.status == status
    assert isinstance(answer.json["detail"], str)


def test_a_body_over_the_limit_is_refused_by_its_length_or_as_it_comes(service: Service) -> None:
    assert service.post(b" " * 100_001).status == 413
    chunk = f"{50_001:x}\r\n".encode() + b" " * 50_001 + b"\r\n"
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {WRITE}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(service, head.encode() + chunk * 2 + b"0\r\n\r\n").split()[1] == b"413"


def test_a_chunked_body_is_taken(service: Service) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {WRITE}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(service, head.encode() + b'16\r\n{"event_name":"hello"}\r\n0\r\n\r\n').split()[1] == b"200"


def test_a_body_that_does_not_come_is_given_up(service: Service) -> None:
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {WRITE}\r\nContent-Length: 22\r\n\r\n"
    answer = raw(service, head.encode() + b'{"event')
    assert answer.split()[1] == b"408"


# -- everything else --------------------------------------------------------------------------


def test_unknown_paths_and_methods_are_answered_in_json(service: Service) -> None:
    assert service.get("/nope").json == {"detail": "Not Found"}
    answer = service.send("PUT", EVENTS, EVENT, WRITE)
    assert (answer.status, answer.json) == (405, {"detail": "Method Not Allowed"})
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        (f"{EVENTS}/", EVENTS),
        (f"{BATCH}/", BATCH),
        (f"{BATCH}//", BATCH),
        (f"{BATCH}/?a=b", BATCH),
        (f"/{EVENTS}", EVENTS),
        (EVENTS.replace("/v1/", "//v1/"), EVENTS),
        (EVENTS.replace("/", "//"), EVENTS),
        (EVENTS.upper(), EVENTS),
        (BATCH.replace("batch", "Batch/"), BATCH),
        (f"{STATS}/", STATS),
        (f"{HEALTH}/", HEALTH),
        ("/livez/", "/livez"),
        ("/Metrics", "/metrics"),
        (f"{EVENTS}/beacon/", f"{EVENTS}/beacon"),
        (f"{EVENTS}/batches", None),
        (f"{EVENTS}%2F", EVENTS),
        ("/api/v1", None),
        ("/a" * 1500, None),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_path_that_is_nearly_right_is_not_found_and_the_right_one_named(
    service: Service, method: str, path: str, meant: str | None
) -> None:
    answer = service.send(method, path, EVENT if method == "POST" else None, WRITE)
    assert answer.status == 404
    assert answer.json == {"detail": f"Not Found; the path is {meant}" if meant else "Not Found"}


def test_request_ids_are_given_or_kept(service: Service) -> None:
    first, second = service.post(EVENT), service.post(EVENT)
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    assert service.post(EVENT, X_Request_ID="mine-1").headers["X-Request-ID"] == "mine-1"
    assert service.post(EVENT, X_Request_ID="a b").headers["X-Request-ID"] != "a b"


def test_neither_tokens_nor_bodies_are_logged_and_refusals_are(service: Service) -> None:
    service.post({"event_name": "", "session_id": "very-private"}, X_Request_ID="find-me")
    service.get("/secret-%1b[31m-path?token=in-the-query", "in-the-header")
    line = next(json.loads(line) for line in service.log().splitlines() if "find-me" in line)
    assert (line["status"], line["method"], line["path"]) == (422, "POST", EVENTS)
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {WRITE}\0\r\n\r\n"
    assert raw(service, head.encode()).split()[1] == b"400"
    for secret in (WRITE, READ, "very-private", "in-the-query", "in-the-header", "\x1b"):
        assert secret not in service.log()


def test_health_is_true_quick_and_open(service: Service) -> None:
    answer = service.get(HEALTH, None)
    health = answer.json
    assert answer.status == 200
    assert health["status"] == "ok"
    assert health["spool"]["ok"]
    assert health["clickhouse"]["ok"]
    assert health["uptime_seconds"] > 0
    assert datetime.fromisoformat(health["clickhouse"]["since"]) <= datetime.now(UTC)
    assert service.get("/livez", None).json["status"] == "ok"
    assert service.get("/readyz", None).json["status"] == "ok"


HOSTILE = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["event_name", "events"]),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["event_name", "events"]), inner),
    ).map(lambda value: json.dumps(value).encode()),
)


@given(body=HOSTILE, path=st.sampled_from([EVENTS, BATCH]), lenient=st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_gets_a_500(service: Service, body: bytes, path: str, lenient: bool) -> None:
    answer = service.post(body, path, **({"Prefer": "handling=lenient"} if lenient else {}))
    assert answer.status in (200, 422)
    assert answer.json


@pytest.mark.parametrize(
    "body",
    [
        b'{"event_name":"x","properties":{"a":NaN}}',
        b'{"event_name":NaN}',
        b'{"event_name":"\\ud800"}',
        b'{"event_name":"x","properties":{"a":"\\ud800"}}',
        b'{"event_name":"\xed\xa0\x80"}',
        b'{"event_name":"x","z":"\xff"}',
        b'{"event_name":' + b"[" * 40_000,
        b'{"event_name":"x","properties":{"a":' + b"[" * 300 + b"]" * 300 + b"}}",
        b'{"event_name":' + b"9" * 5000 + b"}",
        b'{"event_name":"x","timestamp":1e400}',
        b'{"event_name":"x","timestamp":"1899-12-31T23:59:59Z"}',
        b'{"event_name":"x","timestamp":"2300-01-01T00:00:00Z"}',
        b'{"event_name":"x","timestamp":"9999-12-31T23:59:59-23:59"}',
        b"\xef\xbb\xbf{}",
        '{"event_name":"x"}'.encode("utf-16"),
        b"",
        b"null",
    ],
)
def test_what_cannot_be_kept_as_sent_is_a_422_with_the_contracts_list(service: Service, body: bytes) -> None:
    answer: Answer = service.post(body)
    assert answer.status == 422
    for fault in answer.json["detail"]:
        assert fault["loc"][0] == "body"
        assert fault["msg"]
        assert fault["type"]


def test_numbers_and_nul_come_back_as_sent(service: Service, clickhouse: Any) -> None:
    text = '{"price": 0.1, "big":9223372036854775808,"huge":1e400, "long":0.1000000000000000055, "deep":{"n":[1.10]}}'
    session = f"exact-{time.time_ns()}"
    body = f'{{"event_name":"a\\u0000b","session_id":"{session}","properties":{text}}}'.encode()
    assert service.post(body).status == 200
    from tests.support import wait_until

    sql = f"SELECT event_name, properties FROM events WHERE session_id = '{session}'"
    assert wait_until(lambda: query(clickhouse("test_http"), sql)) == [["a\0b", text]]
