"""The parent of several workers: starts them, restarts those that die, stops them all. It takes no events itself.

    parent ──fork──► worker 0 … N-1        each a whole service: its listening sockets on the one port, its spool
       │                  │
       ├── sockets        │  made before the fork and kept: if a worker dies, its successor takes the connections that
       │                  │  wait for it
       ├── life ─────────►│  a pipe: its end tells the workers that the parent has died
       ◄──── reports ─────┤  a pipe: "ready", "leaving", "failed ..."
       └── the data folder's lock, which all share: it is free when the last of them has ended

Nothing of the service is loaded here: each worker loads it after the fork, so that workers share no state by accident,
such as a generator of random numbers. What they share on purpose is in ``SharedCounters``.
"""

import asyncio
import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from service.config import Settings, variable
from service.edge import sockets
from service.edge.access_tokens import AccessToken
from service.errors import FAILED, StartError, start_refused
from service.pipeline.dedup_lock import WAITING, last_note
from service.spool.data_dir import DataDir
from service.store.dsn import Target
from service.telemetry import logs
from service.worker import CONNECTIONS, SPOOL_BYTES, SharedCounters, Worker, taken_with

#: If a worker dies after more seconds than this, it does not count as dying again and again.
STEADY_AFTER = 5.0
#: Seconds until a worker that dies again and again is restarted: the second time, and at most.
BACKOFF_FIRST, BACKOFF_MAX = 0.25, 10.0
#: A worker that has not ended so many seconds after the time for a stop is killed; that loses nothing.
KILL_AFTER = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_REPORT_MAX_BYTES = 4000  # below PIPE_BUF: written as a whole
_log = logging.getLogger(__name__)


def require_server(count: int, target: Target) -> None:
    """Raise StartError if several workers should use the embedded ClickHouse, which takes one process."""
    if count > 1 and target.embedded:
        raise StartError(
            f"{count} workers need a ClickHouse server, since the embedded one takes one process:"
            f" set {variable('clickhouse_dsn')} to a server, or {variable('workers')} to 1"
        )


@dataclass
class _Child:
    """A worker, as its parent sees it."""

    number: int
    listening: sockets.Sockets | None
    pid: int = 0  # 0 while there is no process
    ready: bool = False
    started: float = 0.0
    start_at: float = 0.0
    deaths: int = 0  # in a row, each soon after its start

    def died(self, now: float) -> float:
        """Note that it died; return in how many seconds to restart it."""
        self.pid, self.ready = 0, False
        self.deaths = 1 if now - self.started > STEADY_AFTER else self.deaths + 1
        delay = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(self.deaths - 2, 16)) if self.deaths > 1 else 0.0
        self.start_at = now + delay
        return delay


@dataclass
class Supervisor:
    """The workers of a locked data folder, while ``run`` runs. ``greet`` is called when all take events."""

    settings: Settings
    data: DataDir
    known: Mapping[bytes, AccessToken]
    target: Target
    greet: Callable[[int, int], None]
    failure: str | None = None
    _children: list[_Child] = field(default_factory=list)
    _greeted: bool = False
    _stop_by: float | None = None
    _code: int = 0

    def run(self) -> int:
        """Serve until stopped. Returns the exit code. Raises StartError."""
        count = self.settings.workers
        names = [SPOOL_BYTES, CONNECTIONS, WAITING, *(taken_with(token.name) for token in self.known.values())]
        self._counters = SharedCounters(count, names, last_note(self.data.in_flight))
        self._children = [_Child(number, one) for number, one in enumerate(sockets.bind_shared(self.settings, count))]
        assert self._children[0].listening  # noqa: S101  # bound just now
        self._ports = self._children[0].listening.port, self._children[0].listening.sql_port
        self._life, self._life_held = os.pipe()
        self._reports, self._reports_to = os.pipe()
        self._wakeup, wakeup_to = socket.socketpair()
        for one in (self._wakeup, wakeup_to):
            one.setblocking(False)
        os.set_blocking(self._reports, False)
        signal.set_wakeup_fd(wakeup_to.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # the wake-up descriptor reports it
        threading.excepthook = self._on_thread_ended
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup, selectors.EVENT_READ)
            selector.register(self._reports, selectors.EVENT_READ)
            while self._stop_by is None or any(child.pid for child in self._children):
                self._start_due()
                selector.select(self._seconds_to_wait())
                self._read_signals()
                self._read_reports()
                self._reap()
                self._kill_overdue()
        if self.failure:
            raise StartError(self.failure)
        return self._code

    # -- starting -----------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if self._stop_by is None and not child.pid and child.start_at <= now:
                try:
                    child.listening = child.listening or sockets.bind_one_shared(self.settings, *self._ports)
                except StartError as error:
                    _log.error("worker %d can't be started: %s", child.number, error)
                    child.start_at = now + BACKOFF_MAX
                    continue
                self._fork(child, now)

    def _fork(self, child: _Child, now: float) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                self._be(child)
            child.pid, child.started = pid, now
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be(self, child: _Child) -> NoReturn:
        """In the forked process: run the worker, then end."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._life_held)  # only the parent may have it open
            for other in self._children:
                if other is not child:
                    self._close(other)
            assert child.listening  # noqa: S101  # bound before each fork
            worker = Worker(child.number, len(self._children), self._counters)
            logs.configure(self.settings.log_level, self.settings.log_format, worker.number)
            gc.disable()  # the server enables it when it is ready
            from service.server.run import run

            def report(message: str) -> None:
                line = " ".join(f"{child.number} {message}".splitlines()).encode(errors="backslashreplace")
                with contextlib.suppress(OSError):  # the parent has died
                    os.write(self._reports_to, line[:_REPORT_MAX_BYTES] + b"\n")

            try:
                code = asyncio.run(
                    run(self.settings, self.data, self.known, self.target, child.listening, report, worker, self._life)
                )
            except (StartError, OSError) as error:
                report(f"failed {start_refused(error) if isinstance(error, OSError) else error}")
                code = 1
        except BaseException:
            _log.exception("worker %d failed", child.number)
        finally:
            logs.flush()
            os._exit(code)

    # -- watching -----------------------------------------------------------------------------

    def _seconds_to_wait(self) -> float | None:
        now = time.monotonic()
        if self._stop_by is not None:
            return max(0.0, self._stop_by - now)
        waits = [child.start_at - now for child in self._children if not child.pid]
        return max(0.0, min(waits)) if waits else None

    def _read_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if {signal.SIGTERM, signal.SIGINT} & set(self._wakeup.recv(4096)):
                self._stop()

    def _read_reports(self) -> None:
        try:
            lines = os.read(self._reports, 1 << 16).decode(errors="replace").split("\n")[:-1]
        except BlockingIOError:
            return
        for line in lines:
            number, report, *rest = line.split(" ", 2)
            child = self._children[int(number)]
            if report == "ready":
                child.ready = True
                if not self._greeted and all(one.ready for one in self._children):
                    self._greeted = True
                    self._greet()
            elif report == "leaving":
                self._close(child)
            elif self._greeted:  # the others serve
                _log.error("worker %d can't start: %s", child.number, *rest)
            else:
                self.failure = self.failure or rest[0]
                self._stop()

    def _greet(self) -> None:
        try:
            self.greet(*self._ports)
        except StartError as error:
            self.failure = str(error)
            self._stop()

    def _reap(self) -> None:
        now = time.monotonic()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = next((one for one in self._children if one.pid == pid), None)
            if child is None:  # an orphan that process 1 of a container inherits, or a child from before our exec
                continue
            delay = child.died(now)
            if self._stop_by is None:
                how = _how_it_ended(status)
                when = f"in {delay:.2g} s" if delay else "at once"
                _log.warning("worker %d, process %d, %s; it will be restarted %s", child.number, pid, how, when)
                if delay:
                    self._close(child)  # its siblings take the connections that would wait for it

    def _close(self, child: _Child) -> None:
        if child.listening:
            child.listening.close()
        child.listening = None

    # -- stopping -----------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._stop_by is not None:
            return
        self._stop_by = time.monotonic() + self.settings.shutdown_timeout + KILL_AFTER
        for child in self._children:
            self._close(child)
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)

    def _on_thread_ended(self, ended: threading.ExceptHookArgs) -> None:
        """The thread that writes the log has failed. Called on that thread."""
        name = ended.thread.name if ended.thread else "without a name"
        _log.critical("the thread %r has failed, and all workers stop: %r", name, ended.exc_value)
        self._code = FAILED
        os.kill(os.getpid(), signal.SIGTERM)

    def _kill_overdue(self) -> None:
        if self._stop_by is not None and time.monotonic() >= self._stop_by:
            for child in self._children:
                if child.pid:
                    _log.error("worker %d does not stop: killed", child.number)
                    os.kill(child.pid, signal.SIGKILL)
                    self._stop_by = time.monotonic() + KILL_AFTER


def _how_it_ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"was ended by signal {-code}"
