"""Logging: text on a terminal, else one JSON object a line. Never a body, never a token.

Nothing ever waits for the reader of the log. A line goes into a bounded queue, and a thread writes it. If nobody reads,
or the disk is full, lines are dropped and counted.
"""

import json
import logging
import os
import re
import select
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Literal

#: Attributes that a call may pass in ``extra`` and that are logged.
EXTRA = ("request_id", "method", "path", "status", "duration_ms", "source")
#: Bytes that may wait to be written, to standard error and to standard output, each.
QUEUE_MAX_BYTES = 4 * 2**20
#: Seconds that an exit waits for the queue: since something was written, and in all.
FLUSH_TIMEOUT, FLUSH_MAX = 1.0, 5.0
_MAX_VALUE = 512
#: Characters that a terminal obeys, or that break or reorder lines; and those that can't be encoded.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class Sink:
    """Writes lines to a descriptor, on a thread of its own that the first ``put`` starts. It survives a fork, with an
    empty queue: the parent writes what was queued.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self.fails = False
        self._descriptor = descriptor
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._wrote_at = 0.0
        self._given_up = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> bool:
        """Queue a line; False if it is dropped because too much is waiting."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._changed:
            if self._queue and self._size + len(data) > QUEUE_MAX_BYTES:
                self.dropped += 1
                return False
            self._queue.append(data)
            self._size += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name=f"log-{self._descriptor}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def flush(self) -> None:
        """Wait until all is written, but not long. After giving up, wait again only once writing goes on."""
        with self._changed:
            self._wrote_at = began = time.monotonic()
            while self._queue and not self._given_up:
                left = min(self._wrote_at + FLUSH_TIMEOUT, began + FLUSH_MAX) - time.monotonic()
                self._given_up = not self._changed.wait(left)

    def _write(self) -> None:
        try:
            while True:
                self._write_next()
        finally:  # a bug, which ends the process: another thread writes the line that says so
            with self._changed:
                self._thread = None

    def _write_next(self) -> None:
        changed, written = self._changed, False
        with changed:
            while not self._queue:
                changed.wait()
            data = self._queue[0]
        try:
            written = self._write_all(data)
        finally:
            with changed:
                self._queue.popleft()
                self._size -= len(data)
                self.fails = not written
                self.dropped += self.fails
                self._wrote_at, self._given_up = time.monotonic(), False
                changed.notify_all()

    def _write_all(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process that shares it has made it non-blocking
                select.select([], [self._descriptor], [])
            except (OSError, ValueError):  # nobody reads, or the disk is full
                return False
        return True


_ERROR, _OUTPUT = Sink(2), Sink(1)


def dropped() -> int:
    """How many lines of the log could not be written."""
    return _ERROR.dropped


def say(text: str) -> None:
    """Print lines to standard output, without ever waiting for the reader."""
    _OUTPUT.put(text)


def complain(text: str) -> None:
    """Print a line to standard error, after what was logged."""
    _ERROR.put(escaped(text))


def flush() -> None:
    """At an exit: wait until all is written, if someone reads it."""
    _ERROR.flush()
    _OUTPUT.flush()


def escaped(text: str) -> str:
    """The text on one line, harmless to a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams: otherwise the next file would get the number, and the log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # inherited, as the standard streams are
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)


def configure(level: str, form: Literal["auto", "text", "json"], worker: int | None = None) -> None:
    """Send the log to standard error in the given form, with the worker's number if there are several."""
    handler = _Handler()
    json_lines = form == "json" or (form == "auto" and not os.isatty(2))
    handler.setFormatter(_JsonFormatter(worker) if json_lines else _TextFormatter(worker))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The driver logs each error that it raises, with a traceback; we log them in our own words.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    # aiohttp logs what it can't parse as it came, with access tokens.
    logging.getLogger("aiohttp.server").addFilter(_without_exception)
    for name in ("asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Seldom:
    """Logs a line at most once in ``seconds``, because clients can cause it as often as they like."""

    def __init__(self, logger: logging.Logger, seconds: float = 10.0) -> None:
        self._logger = logger
        self._seconds = seconds
        self._next = 0.0
        self._left_out = 0

    def __call__(self, level: int, message: str, *args: object) -> None:
        """Log the message with the number of those left out before, or leave it out."""
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        more = f" ({self._left_out} lines like this were left out)" if self._left_out else ""
        self._next, self._left_out = now + self._seconds, 0
        self._logger.log(level, message + more, *args)


def _without_exception(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0]:
        record.msg, record.args = f"{record.getMessage()}: {record.exc_info[0].__name__}", ()
        record.exc_info = None
    return True


class _Handler(logging.Handler):
    """Queues each record as a line; after lines were dropped, another line says how many."""

    def __init__(self) -> None:
        super().__init__()
        self._told = _ERROR.dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            missing = _ERROR.dropped - self._told
            if not _ERROR.put(line) or not missing or _ERROR.fails:
                return
            gap = {"name": __name__, "levelname": "WARNING", "msg": f"{missing} lines of the log were dropped before"}
            if _ERROR.put(self.format(logging.makeLogRecord(gap))):
                self._told += missing
        except Exception:  # noqa: BLE001 - it can't be formatted; `handleError` would write to standard error, and wait
            _ERROR.dropped += 1

    def flush(self) -> None:
        flush()


def _extra(record: logging.LogRecord) -> dict[str, object]:
    found = {name: getattr(record, name) for name in EXTRA if hasattr(record, name)}
    return {name: one[:_MAX_VALUE] if isinstance(one, str) else one for name, one in found.items()}


class _Formatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self.worker = worker


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({} if self.worker is None else {"worker": self.worker}),
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # ASCII only: no control character gets through


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        worker = "" if self.worker is None else f"worker {self.worker}: "
        lines = [escaped(f"{clock} {record.levelname.lower():<7} {worker}{record.getMessage()}{extra}")]
        if record.exc_info:  # each line is marked, so that no part of a message can look like a line of the log
            lines += [f"  | {escaped(one)}" for one in self.formatException(record.exc_info).split("\n")]
        return "\n".join(lines)
