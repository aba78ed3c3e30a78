"""``make demo``: the service with ClickHouse embedded, and the page, each at an address that it prints.

It has a data folder and access tokens of its own, which stay the same: a page that is kept open goes on when the
service, or the whole demo, is started again.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NoReturn

from service.spool.disk import replace_durably
from tests.demo import Demo
from tests.support import wait_until

ANALYTICS = Path(sys.executable).with_name("analytics")
#: Where it lies below the current folder; that no ``.env`` is read, the service runs there.
FOLDER = Path("data/demo")
#: Where a search for a free port begins.
PAGE_PORT, SERVICE_PORT = 8000, 8080
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoService:
    """The service beneath the page, which may be stopped and started at will."""

    def __init__(self, folder: Path, origin: str) -> None:
        self._folder = folder
        self.port = free_port_from(SERVICE_PORT)
        self.url = f"http://127.0.0.1:{self.port}"
        self.write, self.read = _tokens(folder / "demo-tokens.txt")
        foreign = {name: value for name, value in os.environ.items() if not name.startswith("ANALYTICS_")}
        self._environment = foreign | {
            "ANALYTICS_PORT": str(self.port),
            "ANALYTICS_DATA_DIR": str(folder),
            "ANALYTICS_WRITE_TOKENS": self.write,
            "ANALYTICS_READ_TOKENS": self.read,
            "ANALYTICS_CORS_ORIGINS": f"{origin},{origin.replace('127.0.0.1', 'localhost')}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int | None:
        """Start it, and wait until it takes events; or its exit code if it does not get there."""
        process = subprocess.Popen(
            [ANALYTICS, "serve"], cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL
        )
        self._process = process
        wait_until(lambda: process.poll() is not None or self._answers(), 60)
        return process.poll()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/livez", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def free_port_from(first: int) -> int:
    """The first port from there on that nobody has."""
    for port in range(first, first + 1000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit(f"no port from {first} to {first + 999} is free")


def _tokens(path: Path) -> list[str]:
    """The tokens to write and to read, made the first time."""
    if not path.exists():
        replace_durably(path, f"{secrets.token_hex(12)}\n{secrets.token_hex(12)}\n".encode())
    return path.read_text().split()


def _switch(service: DemoService) -> NoReturn:
    """With each line on standard input, stop the service or start it; after the end of the input only be there."""
    for _ in sys.stdin:
        if service.runs():
            service.stop()
            print("The service is stopped, the page goes on. Enter starts it again.", flush=True)
        elif service.start() is None:
            print("The service is back. Enter stops it.", flush=True)
    while True:
        signal.pause()


def _end(*_: object) -> NoReturn:
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)  # it is heard
    raise KeyboardInterrupt


def main() -> int:
    """Run both until Ctrl-C or SIGTERM."""
    for number in _ENDS:
        signal.signal(number, _end)
    folder = FOLDER.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    demo = Demo({}, free_port_from(PAGE_PORT))
    service = DemoService(folder, demo.origin)
    options = {"token": service.write, "clientId": "trading-desk", "errors": True, "vitals": True}
    demo.settings |= {"tracker": {"url": f"{service.url}/api/v1/analytics", **options}, "readToken": service.read}
    try:
        if code := service.start():
            return code
        print(
            f"\nThe trading desk   {demo.origin}\n"
            f"Its dashboard      {service.url}/dashboard, with the access token {service.read}\n"
            "Enter stops the service beneath it, and starts it again. Ctrl-C ends both.\n",
            flush=True,
        )
        _switch(service)
    except KeyboardInterrupt:
        return 0
    finally:
        service.stop()
        demo.close()


if __name__ == "__main__":
    sys.exit(main())
