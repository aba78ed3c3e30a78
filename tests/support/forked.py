"""The service as a fork of this process, which has imported it: it starts in a tenth of the time, and meets faults.

The process that forks must have no threads.
"""

import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO

import service.cli.main
import service.server.run  # what `serve` imports late
from tests.support import disk_calls, wait_until
from tests.support.disk_calls import Fault
from tests.support.service import Service
from tests.support.strace import watch


class Process:
    """A child, as ``subprocess.Popen`` shows one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, if it has ended; of a signal, its number below zero."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = 30) -> int:
        """The exit code; AssertionError if there is none in time."""
        wait_until(lambda: self.poll() is not None, timeout or 30, lambda: f"process {self.pid} does not end")
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkedService(Service):
    """An ``analytics serve`` that is forked from this process; ``fault`` is what its next start meets."""

    fault = Fault()
    #: Where strace writes the disk calls that it sees, if it is to look at the next start.
    strace: Path | None = None
    tracer: "subprocess.Popen[bytes] | None" = None

    @property
    def calls(self) -> Path:
        """The log of its disk calls."""
        return self.folder / "calls.log"

    def _spawn(self, prefix: tuple[str, ...], output: IO[bytes]) -> Process:
        assert not prefix
        sys.stdout.flush()
        if pid := os.fork():
            if self.strace:
                self.tracer = _attach(pid, self.strace)
            return Process(pid)
        code = 70
        try:
            os.setsid()
            for fd in (1, 2):
                os.dup2(output.fileno(), fd)
            os.chdir(self.folder)
            for name in [name for name in os.environ if name.startswith("ANALYTICS_")]:
                del os.environ[name]
            os.environ.update(self.environment)
            logging.disable(logging.NOTSET)
            if self.strace:
                wait_until(_is_traced)
            disk_calls.install(self.data, self.fault, self.calls)
            code = service.cli.main.main(["serve"])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001 - the child must not go on in the test's own code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _attach(pid: int, log: Path) -> "subprocess.Popen[bytes]":
    """Let strace look at a process, which waits for that. It ends with the process."""
    calls = "open,openat,creat,mkdir,mkdirat,write,writev,pwrite64,pwritev,fsync,fdatasync,sync_file_range,truncate"
    calls += ",ftruncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,close"
    calls += ",stat,lstat,fstat,newfstatat,statx,getdents64"
    return subprocess.Popen([*watch(calls, log), "-p", str(pid)])


def _is_traced() -> bool:
    return "TracerPid:\t0" not in Path("/proc/self/status").read_text()
