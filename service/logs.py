"""Logging: text on a terminal, else one JSON object a line. Never a body, never a token."""

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Literal

#: Attributes that a call may pass in ``extra`` and that are logged.
EXTRA = ("request_id", "method", "path", "status", "duration_ms", "source")
_MAX_VALUE = 512
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def configure(level: str, form: Literal["auto", "text", "json"], worker: int | None = None) -> None:
    """Send the log to standard error in the given form; of one of several workers, with its number."""
    handler = logging.StreamHandler(sys.stderr)
    json_lines = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler.setFormatter(_JsonFormatter(worker) if json_lines else _TextFormatter(worker))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The driver logs with a traceback each error that it raises, and we log each of those in our own words.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    # aiohttp logs what it could not parse as it came, tokens included.
    logging.getLogger("aiohttp.server").addFilter(_without_exception)
    for name in ("asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Seldom:
    """Logs a line at most once in ``seconds``, for what a client can cause as often as it likes."""

    def __init__(self, logger: logging.Logger, seconds: float = 10.0) -> None:
        self._logger = logger
        self._seconds = seconds
        self._next = 0.0
        self._left_out = 0

    def __call__(self, level: int, message: str, *args: object) -> None:
        """Log it, with the number of lines left out before; or leave it out."""
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
        line = f"{clock} {record.levelname.lower():<7} {worker}{record.getMessage()}{extra}"
        line = _CONTROL.sub("?", line)  # a path may hold escape sequences that a terminal obeys
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
