"""A part that dies ends its process, which says why; nobody hangs, and the next start has all that was promised."""

import errno
import http.client
import json
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.pipeline.dedup_lock import WAITING, DedupLock
from service.telemetry.peers import Peers
from service.worker import SharedCounters, Worker
from tests.support import wait_until
from tests.support.checks import check, sessions, wait_for_health
from tests.support.deaths import doomed, trigger
from tests.support.load import Load
from tests.support.service import EVENTS, HEALTH, WRITE, Service, patched
from tests.support.wire import connect
from tests.support.workers import pids, wait_for_all

Make = Callable[..., Service]
#: The exit code of a process that a bug has ended.
FAILED = 70
#: Seconds in which each answer comes, or none will; the process has one for its end.
SOON = 10.0
BUG, DISK = r"ZeroDivisionError\('a bug'\), at ", r"OSError\(5, 'Input/output error'\), at "
#: What dies, of which function, how, and what the log says of it.
DEATHS = [
    ("task 'writer'", "service.spool.spool:Spool.seal", "disk", DISK),
    ("task 'writer'", "service.pipeline.flusher:Flusher.submit", "fails", BUG),
    ("task 'writer'", "service.pipeline.writer:BatchWriter._take_group", "fails", BUG),
    ("task 'writer'", "service.pipeline.writer:BatchWriter._run", "cancelled", "it was cancelled"),
    ("task 'flusher: events'", "service.pipeline.lane:Lane._next", "fails", BUG),
    ("task 'flusher: events with ids'", "service.pipeline.lane:Lane._next", "fails", BUG),
    ("task 'flusher: views'", "service.pipeline.view_filler:ViewFiller.run", "returns", "it returned"),
    ("task 'monitor: event loop'", "service.telemetry.metrics:Metrics.timer_late", "fails", BUG),
    ("task 'monitor: usage'", "service.telemetry.process:ProcessUsage._read", "disk", DISK),
    ("task 'monitor: spool'", "service.pipeline.writer:BatchWriter.probe", "fails", BUG),
    ("task 'monitor: quarantine'", "service.pipeline.flusher:Flusher.tend", "fails", BUG),
    ("task 'monitor: ClickHouse'", "service.server.monitor:Monitor._watch_clickhouse", "cancelled", "it was cancelled"),
    ("task 'listener'", "service.edge.listener:Listener._close_outstayed", "fails", BUG),
    ("thread 'log-2'", "service.telemetry.logs:Sink._write_all", "fails", BUG),
]


def last_words(service: Service) -> str:
    """The one line that says why the process ends."""
    [line] = [line for line in service.log().splitlines() if '"critical"' in line]
    return str(json.loads(line)["message"])


@pytest.mark.parametrize(("what", "function", "how", "why"), DEATHS)
def test_what_dies_ends_the_process_and_leaves_nobody_waiting_and_nothing_behind(
    make_service: Make, server_dsn: str, what: str, function: str, how: str, why: str
) -> None:
    of = what.removeprefix("task 'flusher: ").rstrip("'") if "Lane" in function else ""
    service = make_service(server_dsn, ANALYTICS_LOG_FORMAT="json").start(prefix=doomed(function, how, of))
    process = service.process
    assert process
    with Load(service, clients=3, pause=0.01) as load:
        load.wait_for_more(50)
        trigger(service)
        if of.endswith("ids"):
            service.post({"event_name": "e", "session_id": "with-id", "event_id": str(uuid4())})
            load.unknown.add("with-id")
        if "thread" in what:
            with connect(service) as client:
                client.sendall(b"GET /no-such-path HTTP/1.1\r\nHost: x\r\n\r\n")  # has a line of the log
        assert process.wait(SOON) == FAILED, service.log()
    assert max(seconds for *_, seconds in load.answers) < SOON
    assert {status for status, *_ in load.answers} <= {200, 503}
    assert re.fullmatch(rf"the {what} has failed, and the process ends: {why}.*", last_words(service))
    assert "Traceback" not in service.log()
    service.start()
    check(service, load, server_dsn)
    assert service.stop() == 0


def test_health_fails_from_the_moment_in_which_a_part_dies(make_service: Make, server_dsn: str) -> None:
    stretch = "import service.server.http as h, service.server.run as r; h.LAST_ANSWERS_TIMEOUT = r.FAILED_TIMEOUT = 30"
    function = "service.pipeline.lane:Lane._next"
    service = make_service(server_dsn).start(prefix=doomed(function, more=f"{stretch}; r.FAILED_MAX = 60"))
    wait_for_health(service, "ok")
    asked = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=SOON) for _ in range(4)]
    for connection in asked:
        connection.request("GET", HEALTH)
        assert json.load(connection.getresponse())["status"] == "ok"
    trigger(service)
    service.post({"event_name": "e"})
    wait_until(lambda: "the process ends" in service.log())
    for connection, path in zip(asked, (HEALTH, "/readyz", "/livez", "/metrics"), strict=True):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == (503 if path in (HEALTH, "/readyz") else 200)
        assert "\nanalytics_ready 0" in body if path == "/metrics" else '"failing"' in body or path == "/livez"
        assert answer.headers["Connection"] == "close"
        connection.close()
    assert service.process
    assert service.process.wait(SOON) == FAILED, "with the last client"


def test_requests_that_come_after_the_writer_has_died_get_503_until_the_process_ends(
    make_service: Make, server_dsn: str
) -> None:
    stretch = "import service.server.http as h, service.server.run as r; h.LAST_ANSWERS_TIMEOUT = r.FAILED_TIMEOUT = 30"
    prefix = doomed("service.spool.spool:Spool.seal", "disk", more=f"{stretch}; r.FAILED_MAX = 60")
    service = make_service(server_dsn).start(prefix=prefix)
    late = http.client.HTTPConnection("127.0.0.1", service.port, timeout=SOON)
    late.connect()
    trigger(service)
    assert service.post({"event_name": "e", "session_id": "kept"}).status == 200
    wait_until(lambda: "the process ends" in service.log())
    late.request("POST", EVENTS, json.dumps({"event_name": "e"}), {"Authorization": f"Bearer {WRITE}"})
    assert late.getresponse().status == 503
    late.close()
    assert service.process
    assert service.process.wait(SOON) == FAILED
    service.start()
    service.wait_for_total(1)
    assert sessions(server_dsn) == ["kept"]


def test_a_thread_that_hangs_does_not_keep_a_process_whose_part_has_died(make_service: Make, server_dsn: str) -> None:
    hang = "import time, service.server.run as r; r.FAILED_MAX = 2; service.spool.spool.Spool.drop = hang"
    hang = f"hang = lambda *_: time.sleep(1000); {hang}"
    service = make_service(server_dsn).start(prefix=doomed("service.pipeline.flusher:Flusher.tend", more=hang))
    assert service.post({"event_name": "e", "session_id": "kept"}).status == 200
    wait_until(lambda: sessions(server_dsn) == ["kept"])
    trigger(service)
    assert service.process
    assert service.process.wait(SOON) == FAILED, service.log()
    service.start()
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    assert sessions(server_dsn) == ["kept"]


def test_a_part_that_dies_while_the_process_stops_shows_in_its_exit_code(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_LOG_FORMAT="json")
    service.start(prefix=doomed("service.spool.spool:Spool.seal", "disk"))
    assert service.post({"event_name": "e", "session_id": "kept"}).status == 200
    trigger(service)
    assert service.stop() == FAILED
    assert last_words(service).startswith("the task 'writer' has failed, and the process ends: OSError(5")
    service.start()
    service.wait_for_total(1)


def test_a_worker_in_which_a_part_dies_is_started_anew_and_the_others_go_on(
    make_service: Make, server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2)
    service.start(prefix=doomed("service.spool.spool:Spool.seal", "disk"))
    before = set(pids(service))
    with Load(service) as load:
        load.wait_for_more(50)
        trigger(service)
        wait_until(lambda: f"ended with code {FAILED}; it will be restarted at once" in service.log(), say=service.log)
        load.wait_for_more(50)
    wait_for_all(service)
    assert len(before & set(pids(service))) == 1
    assert service.log().count("has failed, and the process ends") == 1
    check(service, load, server_dsn)
    assert service.stop() == 0


def test_the_parent_of_workers_ends_with_its_log(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2, ANALYTICS_LOG_FORMAT="json")
    service.start(prefix=doomed("service.telemetry.logs:Sink._write_all"))
    wait_for_all(service)
    service.post({"event_name": "e", "session_id": "kept"})
    trigger(service)
    os.kill(pids(service)[0], signal.SIGKILL)  # of which the parent has a line of the log
    assert service.process
    assert service.process.wait(SOON) == FAILED, service.log()
    assert last_words(service) == "the thread 'log-2' has failed, and all workers stop: ZeroDivisionError('a bug')"
    service.start()
    service.wait_for_total(1)


async def test_a_disk_that_fails_when_the_last_files_are_closed_is_no_death_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(0, 2, SharedCounters(2, [WAITING]))
    lock, peers = DedupLock(tmp_path / "in-flight", worker), Peers(worker, tmp_path, {})
    await peers.open()
    done = {name: getattr(os, name) for name in ("close", "remove")}

    def failing(name: str, *args: Any, **options: Any) -> None:
        done[name](*args, **options)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        for name in done:
            patch.setattr(os, name, partial(failing, name))
        lock.close()
        await peers.close()
    assert list(tmp_path.glob("*.sock")) == []
    again = DedupLock(tmp_path / "in-flight", worker)
    assert again._take()
    again.close()


def test_what_clickhouse_answers_ends_no_process(make_service: Make, server_dsn: str) -> None:
    """A page of some proxy, say, that can be read as rows of another shape."""
    odd = "service.store.engines.Server.query = odd"
    prefix = patched(f"exec('async def odd(*_): return [(1, 2, 3, 4, 5, 6, 7)]'); {odd}")
    service = make_service(server_dsn).start()
    assert service.stop() == 0
    service.start(prefix=prefix)
    wait_until(lambda: "clickhouse does not work" in service.log(), say=service.log)
    assert service.post({"event_name": "e"}).status == 200
    assert service.get(HEALTH).json["status"] == "degraded"
    assert service.process
    assert service.process.poll() is None
