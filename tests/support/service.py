"""The service as its users run it: a process of its own, with environment variables and a folder."""

import gzip
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from tests.support import wait_until

ANALYTICS = Path(sys.executable).with_name("analytics")
WRITE, READ = "write-token-of-tests", "read-token-of-tests"
EVENTS, BATCH, STATS, LOSS, HEALTH, ACTIVITY, PIPELINE, REFUSALS = (
    f"/api/v1/analytics{path}"
    for path in ("", "/batch", "/stats", "/loss", "/health", "/activity", "/pipeline", "/refusals")
)


def patched(statements: str) -> tuple[str, ...]:
    """A prefix for ``Service.start``: the service with smaller constants, so that a test need not wait for minutes."""
    parts = "service.cli.main, service.pipeline.flusher, service.spool.spool, service.store.store"
    return (
        sys.executable,
        "-c",
        f"import sys, {parts}; {statements}; sys.argv.pop(0); sys.exit(service.cli.main.main())",
    )


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running(Protocol):
    """What tests ask of a process: a ``Popen`` has it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal, if it still runs."""


class Service:
    """An ``analytics serve`` on a folder; ``start`` it as often as needed."""

    def __init__(self, folder: Path, **environment: object) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.output = folder / "output.log"
        self.program = ANALYTICS
        self.environment = {
            "ANALYTICS_PORT": "0",
            "ANALYTICS_WRITE_TOKENS": WRITE,
            "ANALYTICS_READ_TOKENS": READ,
            "ANALYTICS_DATA_DIR": str(self.data),
            "ANALYTICS_FLUSH_INTERVAL": "0.2",
        } | {name: str(value) for name, value in environment.items()}
        self.arguments: tuple[str, ...] = ()
        self.process: Running | None = None
        self.port = 0
        self._offset = 0

    def start(self, *, wait: bool = True, prefix: tuple[str, ...] = ()) -> "Service":
        """Start it, and wait until it says where it listens. ``prefix`` is a command to run it under."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            offset = output.tell()
            self.process = self._spawn(prefix, output)
        self._offset = offset
        if wait:
            wait_until(self._listening, 30, lambda: f"not started: {self.log()[-3000:]}")
        return self

    def _spawn(self, prefix: tuple[str, ...], output: IO[bytes]) -> Running:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANALYTICS_")}
        return subprocess.Popen(
            [*prefix, str(self.program), "serve", *self.arguments],
            cwd=self.folder,
            env=kept | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def listens(self) -> bool:
        """Whether it has said where it listens since its start; ``port`` is right then."""
        text = self.output.read_bytes()[self._offset :].decode(errors="replace")
        found = re.search(r"takes events at http://[^\s]*:(\d+)", text)
        self.port = int(found[1]) if found else 0
        return bool(found)

    def _listening(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise AssertionError(f"ended with {self.process.returncode}: {self.log()[-3000:]}")
        return self.listens()

    def log(self) -> str:
        """All that it has printed."""
        return self.output.read_text(errors="replace")

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        timeout: float = 20,
        **headers: str,
    ) -> Answer:
        """One request on a connection of its own. ``body`` is bytes or something to write as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def post(self, body: Any, path: str = EVENTS, token: str | None = WRITE, **headers: str) -> Answer:
        """Post an event, or to another path a batch."""
        return self.send("POST", path, body, token, 20, **headers)

    def post_batch(self, events: list[Any], **headers: str) -> Answer:
        """Post a batch."""
        return self.post({"events": events}, BATCH, **headers)

    def get(self, path: str, token: str | None = READ) -> Answer:
        """Get a path."""
        return self.send("GET", path, token=token)

    def stats(self) -> dict[str, Any]:
        """The statistics, once ClickHouse answers: a busy machine may take events before."""

        def answered() -> Answer | None:
            answer = self.get(STATS)
            return None if answer.status == 503 else answer

        answer = wait_until(answered, 20)
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    def wait_for_total(self, total: int, seconds: float = 30) -> dict[str, Any]:
        """The statistics once they count so many events."""

        def found() -> dict[str, Any] | None:
            answer = self.get(STATS)
            return answer.json if answer.status == 200 and answer.json["total_events"] >= total else None

        stats = wait_until(found, seconds, lambda: f"{self.get(STATS)} {self.log()[-3000:]}")
        assert stats["total_events"] == total
        return stats

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 40) -> int:
        """Ask it to stop, and return its exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def end(self) -> None:
        """End it if it still runs: for the end of a test."""
        if self.process and self.process.poll() is None:
            self.kill()


def compressed(value: Any) -> bytes:
    """A gzip body."""
    return gzip.compress(json.dumps(value).encode())
