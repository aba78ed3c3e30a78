"""A real ClickHouse server for tests, without a container.

The npm package that ``make test`` fetches holds ``libchdb.so``: ClickHouse itself as a library. A child
process that runs its `clickhouse local` and opens the HTTP listener is a server: the same engine, the
same HTTP handlers, tables on disk. Closing the child's standard input is its clean exit, so it ends
with the process that started it, however that one ends.
"""

import json
import random
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support import wait_until

_CHILD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
arguments = [b"clickhouse-local", *(one.encode() for one in sys.argv[2:])]
library.query_stable_v2.restype = ctypes.c_void_p
library.query_stable_v2.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
library.query_stable_v2(len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None))
"""
# Without it a stop waits 5 s for connections that are merely kept alive.
_CONFIG = """<clickhouse>
<shutdown_wait_unfinished>1</shutdown_wait_unfinished>
{users}
</clickhouse>"""
#: ``start`` writes what ``users`` says by then.
USERS = """<clickhouse><profiles><default/></profiles><users>
<default><password/><networks><ip>::/0</ip></networks><profile>default</profile></default>
<writer><password>right</password><networks><ip>::/0</ip></networks><profile>default</profile></writer>
</users></clickhouse>"""

#: The kernel uses ports from this one on for connections, and for programs that ask for any port.
_KERNELS_PORTS = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def free_port() -> int:
    """A free port that the kernel gives to nobody else: it stays ours while a server is down."""
    while True:
        port = random.randrange(10_000, _KERNELS_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def find_library() -> Path:
    """The server's library that ``make test`` fetched; fails with a message if it is missing."""
    found = sorted(Path(__file__).parents[2].glob(".tools/clickhouse-*/libchdb.so"))
    if not found:
        raise RuntimeError("no ClickHouse server for the tests: run `make test`, which fetches one")
    return found[-1]


class ClickHouseServer:
    """A server on ``folder`` that can be stopped, killed, paused and started again on the same port."""

    def __init__(self, folder: Path, *, with_users: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self.users = USERS
        self._with_users = with_users
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "ClickHouseServer":
        """Start and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        users_file, config_file = self.folder.with_suffix(".users.xml"), self.folder.with_suffix(".config.xml")
        users_file.write_text(self.users)
        users = f"<users_config>{users_file}</users_config>" if self._with_users else ""
        config_file.write_text(_CONFIG.format(users=users))
        log = self.folder.with_suffix(".log")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _CHILD, str(find_library())),
                    *(f"--path={self.folder}", "--listen_host=127.0.0.1", f"--http_port={self.port}"),
                    *(f"--config-file={config_file}", "--query=SYSTEM START LISTEN HTTP", "--interactive"),
                ],
                cwd=self.folder.parent,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, which then stop it
            )
        wait_until(self._answers, 30, lambda: f"ClickHouse did not start: {log.read_text(errors='replace')[-2000:]}")
        return self

    def _answers(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise RuntimeError(f"ClickHouse ended with {self._process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2) as answer:
                return bool(answer.read() == b"Ok.\n")
        except OSError:
            return False

    def dsn(self, database: str, user: str = "default", password: str = "") -> str:
        """What ANALYTICS_CLICKHOUSE_DSN takes."""
        return f"http://{user}:{password}@127.0.0.1:{self.port}/{database}"

    @property
    def died(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def started(self) -> bool:
        """Whether there is a process, if only a paused or a dead one."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process
        return self._process.pid

    def query(self, sql: str, database: str = "default") -> list[list[Any]]:
        """The rows of a query; of a statement without result, none."""
        return query(self.dsn(database), sql)

    def kill(self) -> None:
        """kill -9: what a crash leaves."""
        self._signal(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """Pause the process: connections stay open and nothing answers. ``resume`` before ``stop``."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """A clean exit."""
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def _wait(self) -> None:
        process, self._process = self._process, None
        assert process
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def query(dsn: str, sql: str, timeout: float = 60) -> list[list[Any]]:
    """Run a statement over HTTP, past the service and its driver."""
    parts = urllib.parse.urlsplit(dsn)
    settings = {"database": parts.path.strip("/"), "default_format": "JSONCompactEachRow"}
    settings |= {"output_format_json_quote_64bit_integers": "0"}
    request = urllib.request.Request(
        f"http://{parts.hostname}:{parts.port}/?{urllib.parse.urlencode(settings)}", sql.encode(), method="POST"
    )
    request.add_header("X-ClickHouse-User", parts.username or "default")
    request.add_header("X-ClickHouse-Key", parts.password or "")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return [json.loads(line) for line in answer.read().splitlines()]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode(errors="replace")) from None
