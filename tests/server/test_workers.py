"""Several workers on one port: they share the work and the promise, whichever dies and however many there are."""

import contextlib
import itertools
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cli.test_start import NOWHERE, refused, run
from tests.support import wait_until
from tests.support.checks import check, drained, sessions, wait_for_health
from tests.support.clickhouse import ClickHouseServer, free_port
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.quarantine import Rig
from tests.support.service import HEALTH, PIPELINE, REFUSALS, Service
from tests.support.workers import kill_worker, pids, segments, spools, wait_for_all

Make = Callable[..., Service]


def post_to_all(service: Service, name: str, requests: int = 60) -> set[str]:
    """Post events on a connection each, so that all workers get some; their names."""
    names = {f"{name}-{number}" for number in range(requests)}
    for one in names:
        assert service.post({"event_name": "e", "session_id": one}).status == 200
    return names


def test_workers_that_die_under_load_lose_nothing_and_are_started_anew(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2, ANALYTICS_BATCH_SIZE=200).start()
    first = pids(service)
    with Load(service, clients=16) as load:
        for pid in first:
            load.wait_for_more(200)
            kill_worker(service, pid)
        load.wait_for_more(200)
    assert not set(pids(service)) & set(first)
    check(service, load, server_dsn)
    flushed = service.stats()["buffer_status"]["events_flushed_total"]
    assert service.stop() == 0
    log = service.log()
    assert log.count("takes events at") == 1
    assert log.count("was ended by SIGKILL; it will be restarted at once") == 2
    service.start()
    assert service.stats()["buffer_status"]["events_flushed_total"] == flushed
    assert service.stop() == 0


def test_whichever_worker_is_asked_it_speaks_for_all(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2, ANALYTICS_FLUSH_INTERVAL=600).start()
    post_to_all(service, "open", 30)
    for _ in range(8):
        status = service.stats()["buffer_status"]
        assert (status["buffer_size"], status["events_pending"], status["events_flushed_total"]) == (30, 30, 0)
        assert service.get(HEALTH).json["workers"] == {"answering": 2, "silent": []}
        assert service.get(PIPELINE).json["events_pending"] == 30
    assert len({service.get("/livez").headers["X-Request-ID"].split("-")[0] for _ in range(24)}) == 2

    for _ in range(20):
        assert service.post({}).status == 422
    [refusal] = service.get(REFUSALS).json["refusals"]
    assert (refusal["count"], refusal["reason"]) == (20, "body.event_name: Field required")

    frozen = pids(service)[1]
    os.kill(frozen, signal.SIGSTOP)
    try:
        health = ask_the_other(service, HEALTH)
        assert health["status"] == "degraded"
        assert health["workers"] == {"answering": 1, "silent": [1]}
        assert ask_the_other(service, "/readyz") == {"status": "ok", "reason": None}
        status = ask_the_other(service, "/api/v1/analytics/stats")["buffer_status"]
        assert status["events_pending"] == 30, "by what is on disk"
    finally:
        os.kill(frozen, signal.SIGCONT)
    wait_for_all(service)
    assert service.stop() == 0
    assert len(sessions(server_dsn)) == 30


def ask_the_other(service: Service, path: str) -> Any:
    """The answer of the worker that does answer: the other one gets its share of connections too."""
    for _ in range(40):
        with contextlib.suppress(TimeoutError):
            return service.send("GET", path, token="read-token-of-tests", timeout=1.0).json
    raise AssertionError(f"nobody answers {path}")


def test_what_workers_left_is_inserted_by_those_that_there_are(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    """Three workers, then one, then three, with ClickHouse away in between: each event once, with its token."""
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_WORKERS=3, ANALYTICS_SHUTDOWN_TIMEOUT=1)
    service.start()
    names = post_to_all(service, "inserted")
    drained(service)
    proxy.refuse()
    names |= post_to_all(service, "three")
    assert service.stop() == 0
    left = segments(service)
    assert all(any(path.parent == spool for path in left.values()) for spool in spools(service))

    service.environment["ANALYTICS_WORKERS"] = "1"
    service.start()
    assert segments(service).keys() == left.keys()
    assert {path.parent for path in segments(service).values()} == {service.data / "spool"}
    names |= post_to_all(service, "one")
    assert service.get(HEALTH).json.get("workers") is None
    assert service.stop() == 0

    service.environment["ANALYTICS_WORKERS"] = "3"
    service.start()
    names |= post_to_all(service, "again")
    assert segments(service).keys() > left.keys()
    proxy.open()
    drained(service)
    assert Counter(sessions(server_dsn)) == Counter(names)
    assert service.stats()["buffer_status"]["events_flushed_total"] == len(names)
    assert service.stop() == 0
    assert not segments(service)
    service.environment["ANALYTICS_WORKERS"] = "2"
    assert service.start().stats()["buffer_status"]["events_flushed_total"] == len(names)


def test_workers_end_with_their_parent_and_let_go_of_the_folder(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2).start()
    line = refused(run(service.folder, "serve", **service.environment | {"ANALYTICS_PORT": str(free_port())}))
    assert service.process
    assert f"is in use by another instance (process {service.process.pid})" in line
    orphans = pids(service)
    with Load(service, clients=16) as load:
        load.wait_for_more(200)
        service.process.kill()
        service.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    service.start()
    check(service, load, server_dsn)


def test_a_stop_while_clickhouse_is_away_keeps_its_time_and_everything(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_WORKERS=2, ANALYTICS_SHUTDOWN_TIMEOUT=1).start()
    proxy.refuse()
    with Load(service, clients=16) as load:
        load.wait_for_more(300)
        assert service.stop(signal.SIGINT, 10) == 0
    assert {status for status, _, _ in load.answers} <= {200, 503}
    proxy.open()
    service.start()
    check(service, load, server_dsn)


def test_an_event_that_two_workers_get_at_once_is_stored_once(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2, ANALYTICS_FLUSH_INTERVAL=0.05).start()
    ids = [str(uuid4()) for _ in range(60)]

    def send_all() -> None:
        for one in ids:
            assert service.post({"event_name": "order_placed", "event_id": one}).status == 200

    clients = [threading.Thread(target=send_all) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    drained(service)
    assert service.stats()["total_events"] == len(ids)


def test_the_quarantine_is_one_for_all_workers(make_service: Make, server_dsn: str) -> None:
    rig = Rig(make_service(server_dsn, ANALYTICS_WORKERS=2, ANALYTICS_FLUSH_INTERVAL=0.05).start(), server_dsn)
    for number in range(12):
        rig.post(f"poison-{number}", f"good-{number}")
    rig.settle(12)
    wait_until(lambda: rig.service.get(HEALTH).json["quarantine"]["events"] == 12)
    assert len(rig.listed()) == 12
    rig.mend()
    kept = rig.names()[0]
    assert rig.command("drop", kept).returncode == 0
    assert rig.command("retry", "--all").returncode == 0
    rig.settle(0)
    drained(rig.service)
    stored = rig.stored()
    assert stored.total() == len(stored) == 23


def test_a_worker_that_is_told_to_stop_is_replaced_while_the_others_serve(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2).start()
    with Load(service, clients=8) as load:
        for pid in pids(service):
            load.wait_for_more(100)
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: pid not in pids(service))
            wait_for_all(service)
    check(service, load, server_dsn)


def test_an_error_of_the_start_ends_all_workers_and_is_told_once(tmp_path: Path, own_server: ClickHouseServer) -> None:
    dsn = own_server.dsn("analytics", "writer", "wrong-secret")
    environment = {"ANALYTICS_PORT": 0, "ANALYTICS_CLICKHOUSE_DSN": dsn}
    line = refused(run(tmp_path, "serve", "--workers", "3", **environment))
    assert "AUTHENTICATION_FAILED" in line


def test_workers_need_a_clickhouse_server(tmp_path: Path) -> None:
    line = refused(run(tmp_path, "serve", "--workers", "2", ANALYTICS_WORKERS=1))
    assert "2 workers need a ClickHouse server" in line
    assert "ANALYTICS_CLICKHOUSE_DSN" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", ["0", "two"])
def test_a_number_of_workers_that_is_none_is_a_wrong_call(tmp_path: Path, number: str) -> None:
    done = run(tmp_path, "serve", f"--workers={number}", ANALYTICS_CLICKHOUSE_DSN=NOWHERE)
    assert done.returncode == 2
    assert "no whole number from 1 to 64" in done.stderr


def test_workers_share_their_port_with_nobody_else(make_service: Make, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        environment = {"ANALYTICS_CLICKHOUSE_DSN": NOWHERE, "ANALYTICS_PORT": port}
        line = refused(run(tmp_path, "serve", "--workers", "2", **environment))
        assert f"can't listen on 127.0.0.1 port {port}" in line


def test_limits_are_for_all_workers_together(make_service: Make) -> None:
    """A token that has sent too much has done so for all, and a spool that is full is full for all."""
    limits = {"ANALYTICS_RATE_LIMIT": 100, "ANALYTICS_SPOOL_MAX_BYTES": 200_000}
    service = make_service(NOWHERE, ANALYTICS_WORKERS=2, ANALYTICS_WRITE_TOKENS="greedy,big", **limits).start()
    began = time.monotonic()
    answers = [service.post({"event_name": "e"}, token="greedy").status for _ in range(160)]
    allowed = 100 + 100 * (time.monotonic() - began)
    assert answers.count(200) <= allowed + 10
    assert set(answers) <= {200, 429}
    big = {"event_name": "e", "priority": "critical", "properties": {"text": "x" * 2000}}
    for _ in itertools.takewhile(lambda _: service.get("/readyz").status == 200, range(250)):
        service.post(big, token="big")
    health = wait_for_health(service, "failing")
    assert "full" in str(health["spool"])
    size = sum(path.stat().st_size for path in segments(service).values())
    assert 170_000 < size < 300_000, "each for itself would take 360,000"
