"""Bodies that are made to cost much: each is linear in its bytes, and none holds up others."""

import gzip
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.nesting import depth
from schemas.outlines import VALUES_MAX, is_large
from schemas.parse import parse_batch, parse_batch_leniently, parse_event
from schemas.validation_errors import INPUT_MAX_BYTES, Invalid
from service.edge.body import _unpack, zstd
from service.errors import RequestError
from tests.support import hostile
from tests.support.fastapi_peer import VALUES
from tests.support.service import ACTIVITY, BATCH, EVENTS, LOSS, READ, STATS, WRITE, Service

#: How often a body may cost what as many bytes of plain text cost. Text is what is fastest: a nanosecond a byte.
SINGLE_TIMES, BATCH_TIMES = 60, 250
SIZE, BATCH_SIZE, BODY_BYTES = 2**20, 2**18, 2**22


def seconds(parse: Callable[[bytes], object], body: bytes) -> float:
    started = time.thread_time()
    try:
        parse(body)
    except Invalid:
        pass
    return time.thread_time() - started


def too_dear(
    bodies: Iterator[tuple[str, bytes]], parse: Callable[[bytes], object], times: int, plain: bytes
) -> list[tuple[str, float]]:
    """What costs more than ``times`` as much as plain text, whenever it is tried."""
    allowed = times * min(seconds(parse, plain) for _ in range(9)) / len(plain)
    found = []
    for name, body in bodies:
        costs = [seconds(parse, body) / len(body)]
        while min(costs) > allowed and len(costs) < 5:  # the machine may have been busy
            costs.append(seconds(parse, body) / len(body))
        if min(costs) > allowed:
            found.append((name, min(costs) / allowed * times))
    return found


def test_no_event_costs_much_more_than_as_much_plain_text() -> None:
    plain = b'{"event_name":"a","properties":%b}' % hostile.value("plain", SIZE)
    assert too_dear(hostile.single_bodies(SIZE), parse_event, SINGLE_TIMES, plain) == []


@pytest.mark.parametrize("parse", [parse_batch, parse_batch_leniently])
def test_no_batch_costs_much_more_than_as_much_plain_text(parse: Callable[[bytes], object]) -> None:
    plain = b'{"events":[{"event_name":"a","properties":%b}]}' % hostile.value("plain", BATCH_SIZE)
    assert too_dear(hostile.batch_bodies(BATCH_SIZE), parse, BATCH_TIMES, plain) == []


def _levels(value: object) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(_levels, value.values() if isinstance(value, dict) else value), default=0)


@given(text=VALUES, levels=st.integers(0, 130))
@example(text=r'["\\", "[", "\"[{", {"]": "\\\"["}]', levels=0)
@example(text='{"a":"","b":"[","c":[["","]"]]}', levels=3)
def test_depth_is_that_of_the_value(text: str, levels: int) -> None:
    text = "[" * levels + text + "]" * levels
    assert depth(text.encode()) == _levels(json.loads(text))


def test_long_row_of_brackets_is_as_deep_as_its_deepest_place() -> None:
    for levels in range(95, 106):
        for place in range(20):
            text = b"[" + b"[]," * place + b"[" * levels + b"]" * levels + b",[]" * 1000 + b"]"
            assert depth(text) == levels + 1


LARGE = b"[" + b"1," * VALUES_MAX + b"1]"


@pytest.mark.parametrize(
    "event",
    [
        b'{"event_name":5,"event_name":"a","properties":{"x":%b}}',
        b'{"x":[],"event_id":"urn:uuid:0190b3a0-0000-7000-8000-000000000001","event_name":"a","properties":{"x": %b}}',
        b' {"properties":7, "properties" : {"x":%b}, "event_name":"a", "timestamp":true, "timestamp":"2024-01-01"}\n',
    ],
)
def test_large_event_is_taken_also_at_a_second_look(event: bytes) -> None:
    """A smaller one like it shows what its values are."""
    body, small = event % LARGE, parse_event(event % b"[1]")
    assert is_large(body)
    large = parse_event(body)
    assert large.properties == small.properties.replace("[1]", LARGE.decode())
    large.properties = small.properties
    assert large == small
    batch = b'{"client_id":"c","events":[{"event_name":"b"} , %b],"sent_at":"2024-01-01T00:00:00Z"}' % body
    assert parse_batch(batch) == parse_batch_leniently(batch)[0]
    assert [one.event_name for one in parse_batch(batch).events] == ["b", "a"]
    assert (parse_batch(batch).client_id, parse_batch(batch).sent_at) == ("c", 1_704_067_200_000_000)


@pytest.mark.parametrize(
    "event",
    [
        b'{"event_name":"a","category":"x","sequence":0,"event_id":"y","properties":%b}',
        b'{"event_name":%b,"timestamp":{"a":[]},"session_id":[]}',
        b'{"properties":%b}',
        b"%b",
        b'{"event_name":"\\u00e9","priority":{"a":%b}}',
    ],
)
def test_faults_of_a_large_event_are_those_of_a_small_one(event: bytes) -> None:
    def faults(parse: Callable[[bytes], object], body: bytes) -> list[tuple[object, ...]]:
        with pytest.raises(Invalid) as refused:
            parse(body)
        for item in refused.value.errors:
            assert len(json.dumps(item["input"], ensure_ascii=False)) < 2 * INPUT_MAX_BYTES
        return [(item["type"], item["loc"], item["msg"]) for item in refused.value.errors]

    assert faults(parse_event, event % LARGE) == faults(parse_event, event % b"[1]")
    form = b'{"events":[{"event_name":"b"},%b,%b]}'
    large, small = (form % (event % some, event % some) for some in (LARGE, b"[1]"))
    assert faults(parse_batch, large) == faults(parse_batch, small)
    kept, errors = parse_batch_leniently(large)
    assert [one.event_name for one in kept.events] == ["b"]
    assert [item["loc"] for item in errors] == [item["loc"] for item in parse_batch_leniently(small)[1]]


@pytest.mark.parametrize("fault", [b'"\\ud800"', b"NaN", b'"\xff"', b"[", b"1 1", b"[" * 2000 + b"]" * 2000])
def test_large_body_that_is_no_json_is_one_fault(fault: bytes) -> None:
    event = b'{"event_name":"a","properties":{"x":%b},"y":%b}' % (LARGE, fault)
    for parse, body in ((parse_event, event), (parse_batch, b'{"events":[%b]}' % event)):
        with pytest.raises(Invalid) as refused:
            parse(body)
        [item] = refused.value.errors
        assert (item["type"], item["loc"][0]) == ("json_invalid", "body")


@pytest.mark.parametrize("events", [b"", b"{}," * 300_000 + b"{}", b"5,[]," * 100 + LARGE])
def test_large_batch_of_too_many_events_or_none_is_refused_whole(events: bytes) -> None:
    body = b'{"x":%b,"events":[%b]}' % (LARGE, events)
    for parse in (parse_batch, parse_batch_leniently):
        with pytest.raises(Invalid) as refused:
            parse(body)
        [item] = refused.value.errors
        assert (item["type"], item["loc"]) == ("too_long" if events else "too_short", ["body", "events"])


def test_number_of_any_length_in_a_lenient_batch_is_taken() -> None:
    body = b'{"events":[{"event_name":"a","properties":{"x":%b}},{}]}' % (b"9" * 5000)
    batch, errors = parse_batch_leniently(body)
    assert batch.events[0].properties == '{"x":%s}' % ("9" * 5000)
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("encoding", "part"),
    [
        ("gzip", gzip.compress(b"", mtime=0)),
        ("gzip", gzip.compress(b" ", mtime=0) + b"\0"),
        ("gzip", gzip.compress(bytes(2000), mtime=0)),
        ("zstd", zstd.compress(b"")),
        ("zstd", b"\x50\x2a\x4d\x18\0\0\0\0"),
    ],
)
def test_many_packed_parts_cost_little_more_than_one(encoding: str, part: bytes) -> None:
    def unpack(packed: bytes) -> None:
        try:
            _unpack(packed, encoding, BODY_BYTES)
        except RequestError:
            pass

    one = gzip.compress(bytes(BODY_BYTES), 1) if encoding == "gzip" else zstd.compress(os.urandom(BODY_BYTES))
    many = part * (BODY_BYTES // len(part))
    costs = [[seconds(unpack, packed) for _ in range(5)] for packed in (one, many)]
    assert min(costs[1]) < 200 * min(costs[0])


#: Of each kind that was dear once, one; each is some kilobytes when packed.
WORST = (
    ("wide arrays", "valid"), ("wide arrays", "half of a pair"), ("small numbers", "wrong priority"),
    ("deep", "valid after a second look"), ("too deep", "valid"), ("many halves", "valid"), ("many keys", "cut off"),
    ("numbers of 4300 digits", "wrong priority"),
)  # fmt: skip


def test_nobody_waits_for_hostile_bodies(make_service: Callable[..., Service]) -> None:
    service = make_service("http://127.0.0.1:1/analytics").start()

    def packed(kind: str, fault: str) -> bytes:
        before, after = hostile.EVENTS[fault]
        return gzip.compress(before + hostile.value(kind, BODY_BYTES - 200) + after, 1)

    plain = longest_wait(service, [packed("plain", "valid")] * len(WORST))
    worst = longest_wait(service, [packed(*one) for one in WORST])
    assert worst < 20 * plain, f"{worst:.3f} s, beside plain text {plain:.3f} s"


def longest_wait(service: Service, bodies: list[bytes]) -> float:
    """Seconds that a client's small event took at most, while another sends these bodies to each route."""
    statuses: list[int] = []

    def send() -> None:
        for body in bodies:
            batch = gzip.compress(b'{"events":[%b]}' % gzip.decompress(body), 1)
            for path, one in ((EVENTS, body), (BATCH, batch), (f"{EVENTS}/beacon?token={WRITE}", batch)):
                statuses.append(service.post(one, path, Content_Encoding="gzip").status)

    sender = threading.Thread(target=send)
    connection = HTTPConnection("127.0.0.1", service.port, timeout=60)
    longest = 0.0
    sender.start()
    while sender.is_alive():
        started = time.perf_counter()
        connection.request("POST", EVENTS, b'{"event_name":"a"}', {"Authorization": f"Bearer {WRITE}"})
        assert connection.getresponse().read()
        longest = max(longest, time.perf_counter() - started)
    sender.join()
    connection.close()
    assert len(statuses) == 3 * len(bodies)
    assert set(statuses) <= {200, 422}
    return longest


HEX = "".join(f"%{byte:02x}" for byte in range(1, 256))
QUERIES = {
    "pairs": "a=b&" * 900, "names": "&" * 3600, "equals": "=" * 3600, "escapes": HEX * 5, "half escapes": "%" * 3600,
    "plus": "session_id=" + "+" * 3500, "semicolons": "a;b;" * 900, "brackets": "a[]=1&" * 600,
    "no utf-8": "session_id=" + "%ff%ed%a0%80" * 290, "slashes": "/../" * 900, "hashes": "#?" * 1800,
}  # fmt: skip


def test_no_query_string_costs_much_more_than_a_plain_one(make_service: Callable[..., Service]) -> None:
    service = make_service("http://127.0.0.1:1/analytics").start()

    def cpu(path: str) -> float:
        """Seconds of CPU that the service took."""
        assert service.process
        tasks = list(Path(f"/proc/{service.process.pid}/task").iterdir())
        before = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
        connection = HTTPConnection("127.0.0.1", service.port, timeout=60)
        for _ in range(40):
            connection.request("GET", path, headers={"Authorization": f"Bearer {READ}"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 400, 404, 422, 503), (path, answer.status)
        connection.close()
        return (sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) - before) / 1e9

    for route in (STATS, LOSS, ACTIVITY):
        allowed = 12 * min(cpu(f"{route}?session_id=a&span=x&b={'a' * 3500}") for _ in range(3))
        for kind, query in QUERIES.items():
            assert min(cpu(f"{route}?{query}") for _ in range(2)) < allowed, (route, kind)
