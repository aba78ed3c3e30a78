"""``analytics query`` asks a running service by its data folder, the embedded ClickHouse itself, or a given DSN."""

import os
import pty
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.support.checks import wait_for_health
from tests.support.clickhouse import USERS, ClickHouseServer
from tests.support.service import ANALYTICS, Service
from tests.support.sql import Door

Make = Callable[..., Service]


def run(service: Service, *arguments: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANALYTICS_")}
    return subprocess.run(
        [str(ANALYTICS), "query", *arguments],
        env=kept | service.environment | environment,
        cwd=service.folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )


def filled(make_service: Make, dsn: str) -> Service:
    service = make_service(dsn).start()
    service.post_batch([{"event_name": f"event_{number}"} for number in range(10)])
    service.wait_for_total(10)
    return service


@pytest.mark.parametrize("dsn", ["server", "embedded"], indirect=True)
def test_a_query_is_answered_whether_the_service_runs_or_not(make_service: Make, dsn: str) -> None:
    service = filled(make_service, dsn)
    socket = service.data / "sql.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert "  SQL " not in service.log(), "without the setting there is no port"
    for running in (True, False):
        # The DSN and the tokens are the service's: who may read the folder needs neither.
        other = (
            {"ANALYTICS_CLICKHOUSE_DSN": "http://127.0.0.1:1/nowhere", "ANALYTICS_READ_TOKENS": ""} if running else {}
        )
        done = run(service, "SELECT count() FROM events", **other)
        assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")
        refused = run(service, "SELECT file('/etc/hostname')", **other)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("analytics: Code: 497. DB::Exception: ")
        if running:
            assert service.stop() == 0
            assert not socket.exists()


def test_formats_files_parameters_and_standard_input(make_service: Make) -> None:
    service = filled(make_service, "chdb://")
    found = run(
        service,
        "SELECT {a:String} AS a, {b:UInt8} AS b",
        "--param",
        "a=it's",
        "--param",
        "b=7",
        "--format",
        "JSONEachRow",
    )
    assert found.stdout == '{"a":"it\'s","b":7}\n'
    assert run(service, given="SELECT 1 -- from a file\n").stdout == "1\n"
    events = service.folder / "events.parquet"
    assert run(service, "SELECT event_name FROM events", "--output", str(events)).stdout == ""
    assert pyarrow.parquet.read_table(events).num_rows == 10
    packed = service.folder / "events.csv.gz"
    assert run(service, "SELECT event_name FROM events", "--output", str(packed)).returncode == 0
    assert subprocess.run(["zcat", str(packed)], capture_output=True).stdout.startswith(b'"event_name"\n"event_')
    failed = run(
        service, "SELECT throwIf(number = 900000) FROM numbers(1000000)", "--output", str(service.folder / "x.csv")
    )
    assert failed.returncode == 1
    assert "Code: 395. DB::Exception: " in failed.stderr
    assert not list(service.folder.glob("*x.csv*"))
    assert "--format" in run(service, "SELECT 1", "--output", "x.nosuch").stderr
    assert "NAME=VALUE" in run(service, "SELECT 1", "--param", "x").stderr


def test_a_terminal_gets_a_table(make_service: Make) -> None:
    service = filled(make_service, "chdb://")
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANALYTICS_")}
    command = [str(ANALYTICS), "query", "SELECT event_name FROM events ORDER BY 1 LIMIT 1"]
    subprocess.run(command, cwd=service.folder, env=kept | service.environment, stdout=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert "┌─event_name─┐" in shown
    assert "│ event_0    │" in shown


def test_a_dsn_is_asked_past_the_service(make_service: Make, server_dsn: str, tmp_path: Path) -> None:
    service = filled(make_service, server_dsn)
    database = server_dsn.rsplit("/", 1)[1]
    nowhere = {"ANALYTICS_DATA_DIR": str(tmp_path / "none"), "ANALYTICS_CLICKHOUSE_DSN": ""}
    assert run(service, "SELECT currentDatabase()", "--dsn", server_dsn, **nowhere).stdout == f"{database}\n"
    none = run(service, "SELECT 1", **nowhere)
    assert none.returncode == 1
    assert "there is no ClickHouse in" in none.stderr
    assert not (tmp_path / "none").exists()
    gone = run(service, "SELECT 1", "--dsn", "http://127.0.0.1:1/x", **nowhere)
    assert gone.stderr.startswith("analytics: Code: 210. DB::Exception: ClickHouse can't be reached")


def test_several_workers_share_the_port(make_service: Make, server_dsn: str) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=2, ANALYTICS_SQL_PORT=0).start()
    door = Door(service, "", "")
    wait_for_health(service, "ok")
    assert {door.value("SELECT 1") for _ in range(20)} == {"1"}
    assert run(service, "SELECT 2").stdout == "2\n"
    assert service.stop() == 0


def test_queries_run_as_the_user_that_is_set(make_service: Make, own_server: ClickHouseServer) -> None:
    reader = (
        "<analyst><password>secret</password><networks><ip>::/0</ip></networks><profile>default</profile>"
        "<grants><query>GRANT SELECT ON analytics.*</query></grants></analyst>"
    )
    own_server.stop()
    own_server.users = USERS.replace("</users>", f"{reader}</users>")
    own_server.start()
    own_server.query("CREATE DATABASE beside")
    own_server.query("CREATE TABLE beside.t ENGINE = Memory AS SELECT 1 AS x")
    user = {"ANALYTICS_SQL_USER": "analyst", "ANALYTICS_SQL_PASSWORD": "secret"}
    service = make_service(own_server.dsn("analytics"), ANALYTICS_SQL_PORT=0, **user).start()
    own_server.query("CREATE VIEW analytics.peep AS SELECT * FROM beside.t")
    door = Door(service, "", "")
    assert door.value("SELECT currentUser(), count() FROM events") == "analyst\t0"
    assert door.value("SHOW TABLES LIKE 'events'") == "events"
    assert door.value("SELECT count() > 0 FROM system.columns WHERE table = 'events'") == "1"
    assert door.ask("SELECT * FROM beside.t").code == 497
    assert door.ask("SELECT * FROM peep").code == 497, "ClickHouse's grants hold behind our own list"
    assert service.stop() == 0
