"""The log: who should read it and does not, and what is behind it, stop nothing; what is in it harms no terminal."""

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.telemetry.logs import QUEUE_MAX_BYTES, _TextFormatter
from tests.support import wait_until
from tests.support.clickhouse import free_port
from tests.support.metrics import scrape
from tests.support.service import Service, patched
from tests.support.workers import wait_for_all

Make = Callable[..., Service]
#: More than a pipe takes, as lines of the log.
MANY = 700
SMALL_QUEUE = patched("service.telemetry.logs.QUEUE_MAX_BYTES = 10_000")


def redirected(to: str) -> tuple[str, ...]:
    """A prefix for ``Service.start``: with these redirections of a shell."""
    return ("sh", "-c", f'exec "$@" {to}', "sh")


def serving(service: Service, prefix: tuple[str, ...], **answers: int) -> Service:
    """Started on a port that is known, since it may not be able to say so."""
    service.environment["ANALYTICS_PORT"] = str(free_port())
    service.start(wait=False, prefix=prefix)
    service.port = int(service.environment["ANALYTICS_PORT"])

    def ready() -> bool:
        try:
            return service.get("/readyz").status == 200
        except OSError:
            return False

    wait_until(ready, 30, service.log)
    return service


def lines_caused(service: Service, count: int = MANY) -> None:
    """Requests that have a line of the log each; all of them are answered."""
    for number in range(count):
        assert service.get(f"/no-such-path-{number}").status == 404


def read_some(reader: int) -> bytes:
    """What is in a pipe now."""
    try:
        return os.read(reader, 1 << 20)
    except BlockingIOError:
        return b""


def dropped(service: Service) -> float:
    return scrape(service).get("analytics_log_lines_dropped_total")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_that_nobody_reads_stops_nothing_and_what_is_dropped_is_counted(
    make_service: Make, server_dsn: str, tmp_path: Path, workers: int
) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    service = make_service(server_dsn, ANALYTICS_WORKERS=workers)
    service.start(prefix=(*redirected(f"2<>{pipe}"), *SMALL_QUEUE))
    lines_caused(service)
    assert dropped(service) > 0
    assert service.post({"event_name": "e"}).status == 200
    service.wait_for_total(1)
    if workers == 1:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        os.read(reader, 1 << 20)
        lines_caused(service, 2)
        wait_until(lambda: re.search(rb"\d+ lines of the log were dropped before", read_some(reader)))
        os.close(reader)
        lines_caused(service)
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("behind", "workers"),
    [("2>/dev/full", 1), ("2>&-", 1), (">&- 2>&-", 1), ("<&- >&- 2>&-", 2), (">/dev/full 2>/dev/full", 2)],
)
def test_a_log_that_can_not_be_written_stops_nothing(
    make_service: Make, server_dsn: str, behind: str, workers: int
) -> None:
    service = make_service(server_dsn, ANALYTICS_WORKERS=workers)
    serving(service, redirected(behind))
    if workers > 1:
        wait_for_all(service)
    lines_caused(service, 20)
    if "full" in behind:
        wait_until(lambda: dropped(service) >= 20)
    assert service.post({"event_name": "e"}).status == 200
    service.wait_for_total(1)
    files = [path for path in service.data.rglob("*") if path.is_file()]
    assert [path for path in files if b"no-such-path" in path.read_bytes()] == [], "the log went into a file of ours"
    assert service.stop() == 0


def test_a_reader_of_the_log_that_goes_away_stops_nothing(make_service: Make, server_dsn: str, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    service = make_service(server_dsn).start(prefix=redirected(f"2>{pipe}"))
    lines_caused(service, 3)
    wait_until(lambda: b"no-such-path-2" in os.read(reader, 1 << 20))
    os.close(reader)
    lines_caused(service, 20)
    wait_until(lambda: dropped(service) >= 20)  # a starved machine logs more
    assert service.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_standard_output_that_nobody_reads_stops_no_start_and_no_stop(
    make_service: Make, server_dsn: str, tmp_path: Path, workers: int
) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    full = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, bytes(1 << 16))
    os.set_blocking(full, True)
    service = make_service(server_dsn, ANALYTICS_WORKERS=workers, ANALYTICS_WRITE_TOKENS="", ANALYTICS_READ_TOKENS="")
    serving(service, redirected(f"1<>{pipe} 2>&1"))
    assert service.stop() == 0
    service.environment["ANALYTICS_FLUSH_INTERVAL"] = "never"
    assert service.process
    service.start(wait=False, prefix=redirected(f"1<>{pipe} 2>&1"))
    assert service.process.wait(20) == 1, "a start that fails ends, though nobody reads why"
    os.close(full)


#: Python 3.12 and later warn of a fork beside threads, of which the log's own is one that a fork may leave behind.
QUIET = ("-W", "ignore:This process:DeprecationWarning")


def run(program: str) -> list[str]:
    """What a program prints to standard error, by line."""
    head = "import logging, os, sys\nfrom service.telemetry import logs\n"
    head += "logs.configure('info', 'json')\nlog = logging.getLogger('t')\n"
    done = subprocess.run([sys.executable, *QUIET, "-c", head + program], capture_output=True, text=True, timeout=30)
    return done.stderr.splitlines()


def messages(lines: list[str]) -> list[str]:
    found = (re.search(r'\{"time".*', line) for line in lines)  # a traceback may be printed in between, in pieces
    return [json.loads(one[0])["message"] for one in found if one]


def test_what_is_logged_right_before_the_end_is_written() -> None:
    ends = ["raise RuntimeError('the end')", "sys.exit(3)", "", "logs.flush()\nos._exit(1)"]
    for end in ends:
        said = messages(run(f"for n in range(2000): log.error('line %d', n)\n{end}"))
        assert said == [f"line {number}" for number in range(2000)], end


def test_a_fork_writes_what_it_logs_once_and_nothing_of_its_parent() -> None:
    program = """
for n in range(500): log.error("parent %d", n)
for child in range(5):
    if not os.fork():
        logs.configure('info', 'json', worker=child)
        for n in range(100): log.error("child %d %d", child, n)
        logs.flush()
        os._exit(0)
    log.error("forked %d", child)
while True:
    try: os.wait()
    except ChildProcessError: break
"""
    expected = [f"parent {n}" for n in range(500)] + [f"forked {n}" for n in range(5)]
    expected += [f"child {child} {n}" for child in range(5) for n in range(100)]
    assert sorted(messages(run(program))) == sorted(expected)


def test_the_queue_is_bounded_in_bytes() -> None:
    program = """
import resource
reader, writer = os.pipe()
logs._ERROR._descriptor = writer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in range(100_000): log.error("x" * 1000)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
sys.stderr.write(f"{grown} {logs.dropped()}\\n")
"""
    grown, lines = map(int, run(program)[-1].split())
    assert grown < 4 * QUEUE_MAX_BYTES
    assert lines > 90_000


NASTY = "\x1b[2J\r\n2026 error forged\u2028line \u202e\x00\x9b31m \udcff"


@pytest.mark.parametrize("where", ["message", "path", "exception", "chained exception"])
def test_no_text_of_others_reaches_a_terminal_as_it_is(where: str) -> None:
    record = logging.makeLogRecord({"name": "t", "levelname": "ERROR", "msg": "a request"})
    if where == "message":
        record.msg, record.args = "a request %s", (NASTY,)
    elif where == "path":
        record.path = NASTY
    else:
        try:
            try:
                raise ValueError(NASTY)
            except ValueError as error:
                if where == "exception":
                    raise
                raise RuntimeError("another") from error
        except (ValueError, RuntimeError):
            record.exc_info = sys.exc_info()
    text = _TextFormatter(None).format(record)
    first, *others = text.split("\n")
    assert all(line.startswith("  | ") for line in others)
    assert re.sub("[ -~]", "", first + "".join(others)) == ""
    assert "\\x1b[2J" in text
    assert "\\u202e" in text
    text.encode()
