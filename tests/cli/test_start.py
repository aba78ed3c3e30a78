"""Starting: each thing that can be wrong is told in one line that says what would do, and the exit code is 1."""

import argparse
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from tests.support.clickhouse import ClickHouseServer, free_port
from tests.support.service import ANALYTICS, Service

#: An address where nothing listens: enough for what fails before ClickHouse matters.
NOWHERE = "http://127.0.0.1:1/analytics"


def run(folder: Path, *arguments: str, **environment: Any) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANALYTICS_")}
    given = {"ANALYTICS_PORT": "0"} | {name: str(value) for name, value in environment.items()}
    return subprocess.run(
        [ANALYTICS, *arguments], cwd=folder, env=kept | given, capture_output=True, text=True, timeout=60
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a start that failed."""
    assert done.returncode == 1, done
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("analytics: ")
    assert "Traceback" not in done.stderr + done.stdout
    return lines[0]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("ANALYTICS_PORT", "eighty", "ANALYTICS_PORT is 'eighty', but should be a whole number from 0 to 65535"),
        ("ANALYTICS_PORT", "70000", "ANALYTICS_PORT is '70000', but should be a whole number from 0 to 65535"),
        ("ANALYTICS_BATCH_SIZE", "0", "ANALYTICS_BATCH_SIZE is '0', but should be a whole number from 1 to 1000000"),
        ("ANALYTICS_FLUSH_INTERVAL", "soon", "but should be a number of seconds from 0.01 to 3600"),
        ("ANALYTICS_FLUSH_INTERVAL", "nan", "but should be a number of seconds from 0.01 to 3600"),
        ("ANALYTICS_SPOOL_MAX_BYTES", "10GB", "but should be a whole number of bytes, at least 65536"),
        ("ANALYTICS_SHUTDOWN_TIMEOUT", "-1", "but should be a number of seconds, 0 or more"),
        ("ANALYTICS_MIGRATE", "maybe", "ANALYTICS_MIGRATE is 'maybe', but should be on or off"),
        ("ANALYTICS_LOG_FORMAT", "xml", "but should be auto, text or json"),
        ("ANALYTICS_CLICKHOUSE_DSN", "localhost:8123", "ANALYTICS_CLICKHOUSE_DSN is malformed"),
        ("ANALYTICS_CLICKHOUSE_DSN", "mysql://u:secret@h/d", "the scheme 'mysql' is not known"),
        ("ANALYTICS_CLICKHOUSE_DSN", "http://u:secret@h:port/d", "it can't be read"),
        ("ANALYTICS_CLICKHOUSE_DSN", "http://u:secret@h/no-dashes", "'no-dashes' is not a valid name for a database"),
        ("ANALYTICS_CLICKHOUSE_DSN", "http://u:secret@h/d?x=1", "the option 'x' is not one of"),
        ("ANALYTICS_CORS_ORIGINS", "https://a.example,*", "'https://a.example,*', but should be origins as scheme://"),
        (
            "ANALYTICS_CORS_ORIGINS",
            "https://a.example/",
            "but should be origins as scheme://host or scheme://host:port",
        ),
        *(
            ("ANALYTICS_PATH_PREFIX", path, f"ANALYTICS_PATH_PREFIX is {path!r}, but should be a path such as")
            for path in ("x", "/", "/x/", "//x", "/x/../y", "/./x", "/x?y", "/{x}", "/x%20", "/é", "/x" * 51)
        ),
        ("ANALYTICS_TOKENS_FILE", "missing.json", "missing.json can't be read: No such file or directory"),
    ],
)
def test_a_setting_that_is_not_valid_is_named_with_its_value_and_what_would_do(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    environment = {"ANALYTICS_CLICKHOUSE_DSN": NOWHERE, variable: value}
    line = refused(run(tmp_path, "serve", **environment))
    assert expected in line
    assert "secret" not in line


def test_every_wrong_setting_is_told_at_once(tmp_path: Path) -> None:
    line = refused(run(tmp_path, "serve", ANALYTICS_PORT="x", ANALYTICS_BATCH_SIZE="y"))
    assert "ANALYTICS_PORT" in line
    assert "ANALYTICS_BATCH_SIZE" in line


def test_a_misspelt_setting_is_warned_of(tmp_path: Path) -> None:
    done = run(tmp_path, "token", "list", ANALYTICS_BATCHSIZE="5")
    assert "ANALYTICS_BATCHSIZE is no setting; did you mean ANALYTICS_BATCH_SIZE?" in done.stderr


def test_settings_come_from_a_dotenv_file_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANALYTICS_PORT=first\nANALYTICS_BATCH_SIZE=wrong\n")
    line = refused(run(tmp_path, "serve", ANALYTICS_PORT="second"))
    assert "'second'" in line
    assert "'wrong'" in line


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(run(tmp_path, "serve", ANALYTICS_PORT=port, ANALYTICS_CLICKHOUSE_DSN=NOWHERE))
    assert f"can't listen on 127.0.0.1 port {port}" in line
    assert "ANALYTICS_PORT" in line


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(run(tmp_path, "serve", ANALYTICS_DATA_DIR="file/data", ANALYTICS_CLICKHOUSE_DSN=NOWHERE))
    assert f"the data folder {tmp_path}/file/data can't be written" in line
    assert "ANALYTICS_DATA_DIR" in line


def test_a_spool_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "data" / "spool" / "0123456789ab-0123456789abcdef.5.sealed").mkdir(parents=True)
    line = refused(run(tmp_path, "serve", ANALYTICS_CLICKHOUSE_DSN=NOWHERE))
    assert f"the spool {tmp_path}/data/spool can't be read (Is a directory)" in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_note_of_what_is_in_flight_that_cannot_be_read_is_told(tmp_path: Path, workers: str) -> None:
    (tmp_path / "data" / "in-flight").mkdir(parents=True)
    line = refused(run(tmp_path, "serve", "--workers", workers, ANALYTICS_CLICKHOUSE_DSN=NOWHERE, ANALYTICS_PORT="0"))
    assert f"{tmp_path}/data/in-flight can't be read (Is a directory)" in line


@pytest.mark.parametrize("dsn", ["chdb://", NOWHERE])
def test_a_second_instance_on_the_same_data_folder_ends_and_says_who_holds_it(
    make_service: Callable[..., Service], tmp_path: Path, dsn: str
) -> None:
    first = make_service(dsn).start()
    environment = first.environment | {"ANALYTICS_PORT": str(free_port())}
    line = refused(run(tmp_path, "serve", **environment))
    assert f"is in use by another instance (process {first.process.pid})" in line
    assert first.post({"event_name": "still here"}).status == 200


def test_more_connections_than_descriptors_are_told(tmp_path: Path) -> None:
    limited = ["sh", "-c", f'ulimit -n 256; exec "{ANALYTICS}" serve']
    environment = {"ANALYTICS_CLICKHOUSE_DSN": NOWHERE, "ANALYTICS_MAX_CONNECTIONS": "1000"}
    done = subprocess.run(
        limited, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    line = refused(done)
    assert "ANALYTICS_MAX_CONNECTIONS is 1000, but 256 file descriptors are enough for 128" in line
    assert "ulimit -n" in line


def test_a_start_without_the_parser_in_c_is_told(tmp_path: Path) -> None:
    line = refused(run(tmp_path, "serve", ANALYTICS_CLICKHOUSE_DSN=NOWHERE, AIOHTTP_NO_EXTENSIONS=1))
    assert "aiohttp runs without its C parser" in line
    assert "AIOHTTP_NO_EXTENSIONS" in line


def test_a_wrong_password_is_told_without_the_password(tmp_path: Path) -> None:
    server = ClickHouseServer(tmp_path / "server", with_users=True).start()
    try:
        dsn = server.dsn("analytics", "writer", "wrong-secret")
        line = refused(run(tmp_path, "serve", ANALYTICS_PORT=0, ANALYTICS_CLICKHOUSE_DSN=dsn))
    finally:
        server.stop()
    assert "AUTHENTICATION_FAILED" in line
    assert "ANALYTICS_CLICKHOUSE_DSN" in line
    assert "wrong-secret" not in line


def test_an_edited_migration_stops_the_start(make_service: Callable[..., Service], server_dsn: str) -> None:
    from tests.support.clickhouse import query

    service = make_service(server_dsn).start()
    service.stop()
    query(server_dsn, "ALTER TABLE migrations UPDATE sha256 = 'other' WHERE 1 SETTINGS mutations_sync = 2")
    line = refused(run(service.folder, "serve", **service.environment))
    assert "0001_events.sql is not the one that was applied" in line


def test_a_start_without_clickhouse_takes_events_at_once(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE).start()
    assert service.post({"event_name": "kept"}).status == 200
    assert service.get("/readyz", None).status == 200
    assert service.stop() == 0
    [segment] = (service.data / "spool").iterdir()
    assert segment.name.endswith(".1.sealed")


def test_help_teaches_every_command_and_every_setting(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for word in ("serve", "migrate", "token", "version", "ANALYTICS_CLICKHOUSE_DSN", "ANALYTICS_FLUSH_INTERVAL"):
        assert word in done.stdout


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its commands, however deep."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from commands(one)


@pytest.mark.parametrize("parser", list(commands(main.make_parser())), ids=lambda parser: parser.prog)
def test_help_of_each_command_describes_it_and_has_an_example_that_is_a_call_of_it(
    parser: argparse.ArgumentParser,
) -> None:
    assert parser.description
    assert parser.description.endswith(".")
    example = re.search(r"example:\n  (?:ANALYTICS_\S+ )?(analytics .+)\n", parser.format_help())
    assert example
    assert example[1].startswith(parser.prog)
    assert main.make_parser().parse_args(shlex.split(example[1])[1:]).run


@pytest.mark.parametrize(
    ("option", "value"),
    [("port", "65536"), ("port", "-1"), ("port", "http"), ("port", "9" * 5000), ("host", ""), ("workers", "0")],
)
def test_an_option_that_is_not_valid_is_a_wrong_call(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["serve", f"--{option}={value}"])
    assert ended.value.code == 2
    assert f"argument --{option}: " in capsys.readouterr().err


def test_version_is_the_packages(tmp_path: Path) -> None:
    from service import __version__

    assert run(tmp_path, "version").stdout == run(tmp_path, "--version").stdout == f"{__version__}\n"


def test_no_command_is_a_wrong_call(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 2


def test_a_temporary_folder_that_cannot_be_emptied_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmp").write_text("no folder")
    line = refused(run(tmp_path, "serve", ANALYTICS_CLICKHOUSE_DSN="chdb://"))
    assert f"the folder {tmp_path}/data/tmp can't be emptied (Not a directory)" in line
