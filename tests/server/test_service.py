"""The service as a process: its ordinary life, on each kind of ClickHouse."""

import json
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.clickhouse import ClickHouseServer, query
from tests.support.load import Load
from tests.support.service import ANALYTICS, EVENTS, HEALTH, STATS, Service

Make = Callable[..., Service]


def sessions(dsn: str) -> list[str]:
    return [name for (name,) in query(dsn, "SELECT session_id FROM events")]


def test_the_newcomers_story(make_service: Make) -> None:
    service = make_service(ANALYTICS_WRITE_TOKENS="", ANALYTICS_READ_TOKENS="", ANALYTICS_FLUSH_INTERVAL=1).start()
    shown = service.log()
    first = service.data / "first-tokens.txt"
    assert f"the first access tokens are in {first}" in shown
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    made = dict(line.split() for line in first.read_text().splitlines())
    write, read = made["write"], made["read"]
    assert f'curl http://127.0.0.1:{service.port}{EVENTS} -H "Authorization: Bearer $TOKEN"' in shown
    assert str(service.data) in shown
    file = service.data / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert write not in file.read_text()
    assert service.post({"event_name": "hello"}, token=write).status == 200
    assert service.post({"events": [{"event_name": "more"}] * 100}, "/api/v1/analytics/batch", write).status == 200

    def total() -> int:
        return service.send("GET", STATS, token=read).json["total_events"]

    wait_until(lambda: total() == 101, 10)
    assert service.stop(signal.SIGINT) == 0
    service.start()
    assert total() == 101
    assert service.log().count("first access tokens") == 1, "only the first start makes tokens"
    assert write not in service.log()
    assert read not in service.log()


def test_a_terminal_is_shown_the_first_tokens_and_nothing_else_has_them(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WRITE_TOKENS="", ANALYTICS_READ_TOKENS="")
    service.start(prefix=(sys.executable, "-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"))
    shown = service.log()
    write = re.search(r"write token, shown only now: (\S+)", shown)[1]
    assert f"-H 'Authorization: Bearer {write}'" in shown
    assert service.post({"event_name": "hello"}, token=write).status == 200
    assert not [path for path in service.data.rglob("*") if path.is_file() and write.encode() in path.read_bytes()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_inserts_what_is_pending_and_exits_0(make_service: Make, dsn: str, number: signal.Signals) -> None:
    service = make_service(dsn, ANALYTICS_FLUSH_INTERVAL=600).start()
    assert service.post_batch([{"event_name": "e"}] * 100).status == 200
    assert service.stats()["buffer_status"]["buffer_size"] == 100
    assert service.stop(number) == 0
    assert list((service.data / "spool").iterdir()) == []
    service.start()
    assert service.stats()["total_events"] == 100


def test_the_buffer_status_is_true(make_service: Make, dsn: str) -> None:
    service = make_service(dsn, ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=100).start()
    status = service.stats()["buffer_status"]
    assert status == {
        "buffer_size": 0,
        "max_buffer_size": 100,
        "flush_interval_seconds": 600,
        "last_flush": None,
        "events_pending": 0,
        "events_flushed_total": 0,
    }
    service.post_batch([{"event_name": "e"}] * 30)
    status = service.stats()["buffer_status"]
    assert (status["buffer_size"], status["events_pending"], status["events_flushed_total"]) == (30, 30, 0)
    service.post_batch([{"event_name": "e"}] * 70)
    status = service.wait_for_total(100)["buffer_status"]
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    status = service.stats()["buffer_status"]
    assert (status["buffer_size"], status["events_pending"], status["events_flushed_total"]) == (0, 0, 100)
    assert status["last_flush"]
    service.kill()
    service.start()
    assert service.stats()["buffer_status"] == status


def test_a_stop_under_load_loses_nothing(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    with Load(service) as load:
        for _ in range(3):
            load.wait_for_more(300)
            assert service.stop() == 0
            service.start()
            load.wait_for_more(1)
    assert service.stop() == 0
    load.check(sessions(server_dsn))


def test_kill_9_under_load_loses_nothing_and_doubles_nothing(make_service: Make, dsn: str) -> None:
    service = make_service(dsn, ANALYTICS_FLUSH_INTERVAL=0.05, ANALYTICS_BATCH_SIZE=50).start()
    with Load(service) as load:
        for _ in range(6):
            load.wait_for_more(150)
            service.kill()
            service.start()
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    if dsn.startswith("http"):
        load.check(sessions(dsn))
    total = service.stats()["total_events"]
    assert len(load.acknowledged) <= total <= len(load.acknowledged) + len(load.unknown)
    assert service.stop() == 0


def test_clickhouse_away_and_back(make_service: Make, own_server: ClickHouseServer) -> None:
    dsn = own_server.dsn("analytics")
    service = make_service(dsn).start()
    with Load(service) as load:
        load.wait_for_more(100)
        own_server.kill()
        load.wait_for_more(500)
        health = wait_until(lambda: (found := service.get(HEALTH).json)["status"] == "degraded" and found)
        assert health["clickhouse"]["reason"].startswith("ClickHouse can't be reached")
        assert health["spool"]["ok"]
        assert service.get(HEALTH).status == service.get("/readyz").status == 200
        answer = service.get(STATS)
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        own_server.start()
        wait_until(lambda: service.get(HEALTH).json["status"] == "ok")
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    load.check(sessions(dsn))
    assert not load.refused
    log = service.log()
    assert log.count("clickhouse does not work") >= 1
    assert "clickhouse is back after" in log


def test_a_service_killed_while_clickhouse_is_away_delivers_after_both_are_back(
    make_service: Make, own_server: ClickHouseServer
) -> None:
    service = make_service(own_server.dsn("analytics"), ANALYTICS_BATCH_SIZE=20).start()
    own_server.kill()
    with Load(service) as load:
        load.wait_for_more(500)
        service.kill()
    service.start()
    assert service.get(HEALTH).json["status"] == "degraded"
    assert service.post({"event_name": "e", "session_id": "extra"}).status == 200
    load.acknowledged.add("extra")
    own_server.start()
    wait_until(lambda: service.get(STATS).status == 200)
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    load.check(sessions(own_server.dsn("analytics")))


def test_a_clickhouse_that_hangs_slows_neither_posts_nor_health(
    make_service: Make, own_server: ClickHouseServer
) -> None:
    service = make_service(own_server.dsn("analytics")).start()
    own_server.pause()
    try:
        for _ in range(30):
            assert service.send("POST", EVENTS, {"event_name": "e"}, "write-token-of-tests", timeout=2).status == 200
            assert service.send("GET", HEALTH, timeout=2).status == 200
        wait_until(lambda: service.send("GET", HEALTH, timeout=2).json["status"] == "degraded", 20)
    finally:
        own_server.resume()
    service.wait_for_total(30)


def test_a_row_that_the_table_refuses_costs_only_itself(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    query(server_dsn, "ALTER TABLE events ADD CONSTRAINT no_poison CHECK session_id != 'poison'")
    events = [{"event_name": "e", "session_id": f"s{number}"} for number in range(100)]
    events[61]["session_id"] = "poison"
    assert service.post_batch(events).status == 200
    service.wait_for_total(99)
    assert sorted(sessions(server_dsn)) == sorted(f"s{number}" for number in range(100) if number != 61)
    [file] = (service.data / "quarantine").iterdir()
    document = json.loads(file.read_bytes())
    assert document["values"]["session_id"] == "poison"
    assert document["code"] == 469
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    assert service.stats()["buffer_status"]["events_flushed_total"] == 99
    assert service.post({"event_name": "next"}).status == 200
    service.wait_for_total(100)


def test_a_table_that_is_gone_keeps_events_until_it_is_back(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    query(server_dsn, "RENAME TABLE events TO away")
    assert service.post({"event_name": "e"}).status == 200
    wait_until(lambda: service.get(HEALTH).json["status"] == "degraded")
    assert "a table is missing (code 60" in service.get(HEALTH).json["clickhouse"]["reason"]
    query(server_dsn, "RENAME TABLE away TO events")
    service.wait_for_total(1)


def test_a_process_that_was_stopped_goes_on_where_it_was_and_says_so(service: Service) -> None:
    assert service.post({"event_name": "before"}).status == 200
    service.process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() > stopped + 2.5)
    service.process.send_signal(signal.SIGCONT)
    assert service.post({"event_name": "after"}).status == 200
    wait_until(lambda: "nothing ran for" in service.log())
    service.wait_for_total(2)


def test_a_full_spool_refuses_says_so_and_takes_events_again_once_drained(
    make_service: Make, own_server: ClickHouseServer
) -> None:
    dsn = own_server.dsn("analytics")
    service = make_service(dsn, ANALYTICS_SPOOL_MAX_BYTES=200_000).start()
    own_server.kill()
    kept = 0
    while (answer := service.post_batch([{"event_name": "e", "session_id": "x" * 100}] * 100)).status == 200:
        kept += 100
        assert kept < 5000
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "spool is full" in answer.json["detail"]
    while service.post({"event_name": "small"}).status == 200:
        kept += 1
    for path in (HEALTH, "/readyz"):
        assert service.get(path).status == 503
    health = service.get(HEALTH).json
    assert health["status"] == "failing"
    assert "full" in health["spool"]["reason"]
    assert service.get("/livez").status == 200
    own_server.start()
    service.wait_for_total(kept)
    assert service.get(HEALTH).json["status"] == "ok"
    assert service.post({"event_name": "again"}).status == 200


def test_two_instances_that_start_at_once_share_one_database(make_service: Make, server_dsn: str) -> None:
    services = [make_service(server_dsn).start(wait=False) for _ in range(3)]
    for service in services:
        found = wait_until(lambda service=service: re.search(r"takes events at http://[^\s]*:(\d+)", service.log()), 30)
        service.port = int(found[1])
        assert service.post({"event_name": "e"}).status == 200
    services[0].wait_for_total(3)


def test_nothing_of_the_embedded_engine_is_loaded_on_the_server_store(service: Service) -> None:
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "msgspec" in maps
    for module in ("chdb", "pandas", "numpy", "pyarrow"):
        assert module not in maps


def test_temporary_files_of_the_embedded_engine_stay_in_the_data_folder_and_are_cleared(make_service: Make) -> None:
    service = make_service().start()
    service.kill()
    left = service.data / "tmp" / "left.native"
    left.write_bytes(b"event data")
    service.start()
    assert not left.exists()


def test_migrate_off_leaves_the_tables_to_the_command(make_service: Make, server_dsn: str) -> None:
    environment = {"ANALYTICS_CLICKHOUSE_DSN": server_dsn, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([ANALYTICS, "migrate"], env=environment, capture_output=True, text=True, check=True)
    assert "applied 0001_events.sql" in done.stdout
    service = make_service(server_dsn, ANALYTICS_MIGRATE="off").start()
    query(server_dsn, "DROP TABLE migrations")
    service.stop()
    service.start()
    assert service.post({"event_name": "e"}).status == 200
    service.wait_for_total(1)
    assert query(server_dsn, "EXISTS TABLE migrations") == [[0]]
