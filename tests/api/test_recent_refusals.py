"""Recent refusals: every refusal is there, in the words of its answer, with nothing that a client sent."""

import json
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Event, EventBatch
from schemas.parse import parse_batch, parse_event
from schemas.validation_errors import Invalid
from service.api.refusals import merge_refusals
from service.telemetry.peers import PeerAnswers
from service.telemetry.refusals import MOST, REASON_MAX_LENGTH, Refusals, reason_of
from tests.support import wait_until
from tests.support.disk import Disk
from tests.support.service import BATCH, EVENTS, READ, STATS, WRITE, Service, compressed
from tests.support.service import REFUSALS as PATH

pytestmark = pytest.mark.quick

SECRET = "in-no-answer-and-no-log"


def listed(service: Service) -> list[dict[str, Any]]:
    answer = service.get(PATH)
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.json["refusals"]
    return found


def test_refusals_are_told_with_route_status_reason_and_the_name_of_the_token(
    make_service: Callable[..., Service],
) -> None:
    service = make_service("http://127.0.0.1:1/analytics", ANALYTICS_MAX_BODY_BYTES=2000).start()
    assert service.get(PATH, token=None).status == 401
    assert service.get(PATH, token=WRITE).status == 403
    for number in range(3):
        events = [{"event_name": "fine"}] * number + [{"event_name": SECRET, "category": SECRET}]
        assert service.post_batch(events).status == 422
    assert service.post({"event_name": "x"}, token=SECRET).status == 401
    assert service.post({"event_name": "x"}, token=READ).status == 403
    assert service.post(b'{"' + SECRET.encode()).status == 422
    assert service.post({"event_name": "x", "properties": {SECRET: "\ud800"}}).status == 422
    assert service.post_batch([{"event_name": "x", SECRET: [{SECRET: "\ud800"}]}]).status == 422
    assert service.post({"event_name": "x"}, f"/{SECRET}").status == 404
    assert service.post(b" " * 3000).status == 413
    assert service.post(compressed({})[:-4], Content_Encoding="gzip").status == 400
    assert service.post_batch([{"event_name": ""}, {"event_name": "kept"}], Prefer="handling=lenient").status == 200
    assert service.post(b"{}", f"{EVENTS}/beacon?token={WRITE}").status == 422
    assert service.get(f"{STATS}?{SECRET}").status == 503
    assert service.get(f"/{SECRET}", token=None).status == 404
    assert service.send("PUT", EVENTS).status == 405

    found = listed(service)
    names = {(one["route"], one["status"]): one["token"] for one in found}
    write, read = names[PATH, 403], names[EVENTS, 403]  # each where it may not
    assert {(one["method"], one["route"], one["status"], one["token"], one["count"]) for one in found} == {
        ("GET", PATH, 401, None, 1),
        ("GET", PATH, 403, write, 1),
        ("POST", BATCH, 422, write, 3),
        ("POST", BATCH, 422, write, 1),
        ("POST", EVENTS, 401, None, 1),
        ("POST", EVENTS, 403, read, 1),
        ("POST", EVENTS, 422, write, 1),
        ("POST", EVENTS, 413, write, 1),
        ("POST", EVENTS, 400, write, 1),
        ("POST", BATCH, 200, write, 1),
        ("POST", f"{EVENTS}/beacon", 422, write, 1),
        ("GET", STATS, 503, read, 1),
        ("GET", "unknown", 404, None, 1),
        ("POST", "unknown", 404, write, 1),
        ("PUT", "unknown", 405, None, 1),
    }
    assert [one["last_at"] for one in found] == sorted((one["last_at"] for one in found), reverse=True)
    reasons = {(one["route"], one["status"]): one["reason"] for one in found}
    assert reasons[BATCH, 422].startswith("body.events.*.category: Input should be 'page_view', ")
    assert reasons[BATCH, 200] == "Some of the events were not taken: invalid"
    assert reasons[EVENTS, 401] == "The token is not known"
    assert reasons[EVENTS, 422].startswith("body: ")
    assert SECRET not in json.dumps(found)
    assert WRITE not in json.dumps(found)


def test_what_is_refused_after_the_socket_was_read_is_told_too(
    make_disk: Callable[..., Disk], make_service: Callable[..., Service]
) -> None:
    service = make_service("http://127.0.0.1:1/analytics")
    make_disk(service.data, megabytes=8)
    service.start()
    body = {"event_name": "large", "properties": {"text": "x" * 1_000_000}}
    wait_until(lambda: service.post(body).status == 503)
    [refusal] = [one for one in listed(service) if one["status"] == 503]
    assert (refusal["method"], refusal["route"]) == ("POST", EVENTS)
    assert "nothing of this request was kept" in refusal["reason"]
    assert refusal["token"].startswith("env-")


def test_alike_refusals_are_one_and_the_kinds_are_bounded() -> None:
    now = [100.0]
    refusals = Refusals(most=3, clock=lambda: now[0])
    for reason in ("a", "b", "a", "c", "d", "x" * 1000):
        refusals.add("POST", "/r", 422, reason, "web")
        now[0] += 1
    assert [(one.reason, tuple(seen)) for one, seen in refusals.entries()] == [
        ("c", (1, 103.0, 103.0)),
        ("d", (1, 104.0, 104.0)),
        ("x" * (REASON_MAX_LENGTH - 1) + "…", (1, 105.0, 105.0)),
    ]
    refusals.add("POST", "/r", 422, "c", "web")
    assert [(one.reason, tuple(seen)) for one, seen in refusals.entries()][-1] == ("c", (2, 103.0, 106.0))


def test_those_of_several_workers_add_up() -> None:
    def worker(*entries: tuple[str, int, float, float]) -> Any:
        said = [(("POST", "/r", 503, reason, None), seen) for reason, *seen in entries]
        return orjson.loads(orjson.dumps(said))

    known = {0: worker(("full", 2, 10.0, 20.0), ("bad", 1, 5.0, 5.0)), 1: worker(("full", 3, 8.0, 30.0))}
    merged = merge_refusals(PeerAnswers(0, known, {}))
    assert [(one["reason"], one["count"], one["first_at"], one["last_at"]) for one in merged] == [
        ("full", 5, "1970-01-01T00:00:08.000Z", "1970-01-01T00:00:30.000Z"),
        ("bad", 1, "1970-01-01T00:00:05.000Z", "1970-01-01T00:00:05.000Z"),
    ]
    many = {worker_: worker(*((f"{worker_}-{n}", 1, 0.0, float(n)) for n in range(MOST))) for worker_ in range(3)}
    assert len(merge_refusals(PeerAnswers(0, many, {}))) == MOST


def test_the_reason_of_an_invalid_body_is_its_first_fault_without_numbers() -> None:
    first = {"loc": ["body", "events", 17, "event_name"], "msg": "Field required", "input": SECRET}
    assert reason_of([first]) == "body.events.*.event_name: Field required"
    assert reason_of([first, first]) == "body.events.*.event_name: Field required (and more)"
    assert reason_of([{"loc": ["body", 3], "msg": "JSON decode error"}]) == "body: JSON decode error"
    assert reason_of([{"loc": ["query", "session_id"], "msg": "Field required"}]) == "query.session_id: Field required"


#: Bodies of a client that makes up something new each time, and what is told of all of them.
MADE_UP: dict[str, Callable[[str], Any]] = {
    "body.properties.…: ": lambda new: {"event_name": "a", "properties": {new: HALF}},
    "body.properties: ": lambda new: {"event_name": "a", "properties": {f"{new}{HALF}": 1}},
    "body.…: ": lambda new: {"event_name": "a", new: {new: [HALF]}},
    "body.page_url: ": lambda new: {"event_name": "a", "page_url": f"{new}{HALF}"},
    "body.events.…: ": lambda new: {"event_name": "a", "events": {new: {"event_name": HALF}}},
    "body.events.*.properties.…: ": lambda new: {"events": [{"event_name": "a", "properties": {new: HALF}}] * 2},
    "body.events.*.…: ": lambda new: {"events": [{"event_name": "a"}] * int(new) + [{"event_name": "a", new: HALF}]},
    "body.events.*.event_id: ": lambda new: {
        "events": [{"event_name": "a"}] * int(new) + [{"event_name": "a", "event_id": new}]
    },
    "body.events: ": lambda new: {"events": [{"event_name": "a"}] * (101 + int(new))},
    "body.event_id: ": lambda new: {"event_name": "a", "event_id": new},
    "body: ": lambda new: {"event_name": "a", new * int(new): float("nan")},
    "body.timestamp: ": lambda new: {"event_name": "a", "timestamp": 10**15 * int(new)},
    "body.category: ": lambda new: {"event_name": "a", "category": new},
}  # fmt: skip
HALF = "\ud800"


@pytest.mark.parametrize("place", MADE_UP)
def test_what_a_client_makes_up_is_not_told_and_makes_few_kinds(place: str) -> None:
    reasons = set()
    for number in range(1, 100):
        body = MADE_UP[place](str(number))
        parse = parse_batch if isinstance(body.get("events"), list) else parse_event
        with pytest.raises(Invalid) as refused:
            parse(json.dumps(body).encode())
        reasons.add(reason_of(refused.value.errors))
    assert len(reasons) <= 4, reasons
    assert all(reason.startswith(place) for reason in reasons), reasons


@given(place=st.lists(st.integers() | st.sampled_from(["events", "properties", "event_name"]) | st.text(), max_size=9))
def test_of_a_place_only_what_the_contract_names_is_told(place: list[int | str]) -> None:
    shown = reason_of([{"loc": ["body", *place], "msg": "M"}])
    fields = "|".join([*Event.model_fields, *EventBatch.model_fields])
    assert re.fullmatch(rf"body(\.events(\.\*)?)?(\.({fields}))?(\.…)?: M", shown)


@pytest.mark.parametrize("character", ["x", "`", "5", "\n", "é", "'"])
@pytest.mark.parametrize("form", ["{}", "0190b3a0-0000-7000-8000-00000000000{}", "{}190b3a0-0000-7000-8000", "{{{}}}"])
def test_no_character_of_an_id_is_told(form: str, character: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_event(json.dumps({"event_name": "a", "event_id": form.format(character) + "!"}).encode())
    reason = reason_of(refused.value.errors)
    assert reason.startswith("body.event_id: Input should be a valid UUID, ")
    assert not re.search(r"[é5!\n`]|found x", reason.removeprefix("body.event_id: "))
