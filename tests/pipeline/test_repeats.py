"""Client retries: the same event sent again is acknowledged again and stored once."""

import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support import wait_until
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.service import BATCH, EVENTS, WRITE, Service

Make = Callable[..., Service]


def drained(service: Service) -> int:
    """The total once nothing is pending."""
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    return int(service.stats()["total_events"])


def flushed(service: Service) -> None:
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)


def test_an_event_sent_again_is_acknowledged_with_its_id_and_stored_once(any_service: Service) -> None:
    event_id = str(uuid.uuid4())
    for _ in range(3):
        answer = any_service.post({"event_name": "e", "event_id": event_id})
        assert (answer.status, answer.json["event_id"]) == (200, event_id)
        flushed(any_service)
    assert drained(any_service) == 1


def test_ids_are_recognised_in_the_same_request_and_in_any_other(any_service: Service) -> None:
    events = [{"event_name": f"e{number}", "event_id": str(uuid.uuid4())} for number in range(50)]
    assert any_service.post_batch([*events, *events]).json["events_queued"] == 100
    assert any_service.post_batch(random.Random(1).sample(events, 50)).status == 200
    flushed(any_service)
    assert any_service.post(events[7]).status == 200
    assert drained(any_service) == 50


@pytest.mark.parametrize("death", ["kill", "stop"])
def test_ids_are_recognised_after_a_restart(make_service: Make, dsn: str, death: str) -> None:
    service = make_service(dsn).start()
    events = [{"event_name": "e", "event_id": str(uuid.uuid4())} for _ in range(20)]
    assert service.post_batch(events).status == 200
    getattr(service, death)()
    service.start()
    assert service.post_batch(events).status == 200
    assert drained(service) == 20


def test_ids_are_recognised_by_other_instances(make_service: Make, server_dsn: str) -> None:
    first, second = make_service(server_dsn).start(), make_service(server_dsn).start()
    events = [{"event_name": "e", "event_id": str(uuid.uuid4())} for _ in range(20)]
    assert first.post_batch(events).status == 200
    flushed(first)
    assert second.post_batch(events).status == 200
    assert drained(second) == 20


def test_ids_sent_again_while_clickhouse_is_away_are_recognised(make_service: Make, tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path / "server").start()
    service = make_service(server.dsn("analytics"), ANALYTICS_BATCH_SIZE=10).start()
    server.kill()
    events = [{"event_name": "e", "event_id": str(uuid.uuid4())} for _ in range(30)]
    for _ in range(3):
        assert service.post_batch(events).status == 200
    service.kill()
    service.start()
    assert service.post_batch(events).status == 200
    server.start()
    service.wait_for_total(30)
    assert drained(service) == 30
    server.stop()


def test_after_the_window_the_same_id_is_another_event(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_DEDUP_WINDOW="1s").start()
    event = {"event_name": "e", "event_id": str(uuid.uuid4())}
    service.post(event)
    assert drained(service) == 1
    service.post(event)
    assert drained(service) == 1
    old = "SELECT max(stored_at) < now64(3) - INTERVAL 1100 MILLISECOND FROM client_ids"
    wait_until(lambda: query(server_dsn, old) == [[1]])
    service.post(event)
    assert drained(service) == 2


def test_many_ids_of_both_versions_are_recognised(make_service: Make, server_dsn: str) -> None:
    """More than one look-up takes."""
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=2).start()
    rng = random.Random(2)
    ids = [UUID(int=rng.getrandbits(128)) for _ in range(2500)]
    ids += [UUID(int=(1_795_552_504_000 + n << 80) | 7 << 76 | 2 << 62 | rng.getrandbits(60)) for n in range(2500)]
    for _ in range(2):
        for start in range(0, 5000, 100):
            events = [{"event_name": "e", "event_id": str(one)} for one in ids[start : start + 100]]
            assert service.post_batch(events).status == 200
        flushed(service)
    assert drained(service) == 5000
    stored = {UUID(one) for (one,) in query(server_dsn, "SELECT event_id FROM events WHERE id_origin = 'client'")}
    assert stored == set(ids)


@pytest.mark.parametrize("form", [str, lambda one: one.hex, lambda one: f"{{{one}}}", lambda one: f"urn:uuid:{one}"])
def test_an_id_may_be_written_in_each_of_its_forms(service: Service, form: Callable[[UUID], str]) -> None:
    event_id = uuid.uuid4()
    assert service.post({"event_name": "e", "event_id": form(event_id)}).json["event_id"] == str(event_id)
    assert service.post({"event_name": "e", "event_id": str(event_id).upper()}).status == 200
    assert drained(service) == 1


@pytest.mark.parametrize(("event_id", "kind"), [("x", "uuid_parsing"), (5, "uuid_type"), ([], "uuid_type")])
def test_what_is_no_id_is_refused(service: Service, event_id: Any, kind: str) -> None:
    answer = service.post({"event_name": "e", "event_id": event_id})
    assert answer.status == 422
    assert [(fault["type"], fault["loc"]) for fault in answer.json["detail"]] == [(kind, ["body", "event_id"])]


def test_an_event_without_id_gets_one_each_time(service: Service) -> None:
    ids = {service.post({"event_name": "e", "event_id": None}).json["event_id"] for _ in range(3)}
    assert len(ids) == 3
    assert drained(service) == 3


def test_a_request_with_an_idempotency_key_is_stored_once(service: Service) -> None:
    events = [{"event_name": f"e{number}"} for number in range(10)]
    for _ in range(3):
        assert service.post_batch(events, Idempotency_Key="order-17").status == 200
        flushed(service)
    assert drained(service) == 10
    assert service.post_batch(events, Idempotency_Key="order-18").status == 200
    assert drained(service) == 20
    acks = [service.post({"event_name": "e"}, Idempotency_Key="one").json["event_id"] for _ in range(2)]
    assert acks[0] == acks[1]
    assert UUID(acks[0]).version == 8
    assert drained(service) == 21


def test_an_idempotency_key_belongs_to_its_token_and_an_events_own_id_counts_first(
    make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_WRITE_TOKENS=f"{WRITE},other").start()
    for token in (WRITE, "other"):
        assert service.post({"event_name": "e"}, EVENTS, token, Idempotency_Key="k").status == 200
    own = str(uuid.uuid4())
    answer = service.post({"event_name": "e", "event_id": own}, Idempotency_Key="k")
    assert answer.json["event_id"] == own
    assert drained(service) == 3


def test_a_lenient_retry_with_a_key_recognises_each_event_by_its_place(service: Service) -> None:
    events = [{"event_name": "a"}, {"event_name": ""}, {"event_name": "c"}]
    for _ in range(2):
        ack = service.post_batch(events, Idempotency_Key="k", Prefer="handling=lenient").json
        assert (ack["events_queued"], ack["events_failed"]) == (2, 1)
        flushed(service)
    events[1]["event_name"] = "b"
    assert service.post_batch(events, Idempotency_Key="k").status == 200
    assert drained(service) == 3
    assert query_names(service) == ["a", "b", "c"]


def query_names(service: Service) -> list[str]:
    dsn = service.environment["ANALYTICS_CLICKHOUSE_DSN"]
    return sorted(name for (name,) in query(dsn, "SELECT event_name FROM events"))


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_what_is_no_idempotency_key_is_refused(service: Service, key: str) -> None:
    assert service.post([], BATCH, Idempotency_Key=key).status in (400, 422)
    assert service.post({"event_name": "e"}, Idempotency_Key=key).status == 400


def test_a_bad_row_costs_neither_its_neighbours_nor_their_ids(service: Service) -> None:
    dsn = service.environment["ANALYTICS_CLICKHOUSE_DSN"]
    query(dsn, "ALTER TABLE events ADD CONSTRAINT no_poison CHECK session_id != 'poison'")
    events = [{"event_name": "e", "event_id": str(uuid.uuid4()), "session_id": f"s{n}"} for n in range(20)]
    events[11]["session_id"] = "poison"
    for _ in range(2):
        assert service.post_batch(events).status == 200
        flushed(service)
    assert drained(service) == 19
