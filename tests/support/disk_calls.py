"""Faults of single disk calls, made in the process itself: the n-th call on a file below a folder, of any thread.

strace makes them in the kernel (see ``strace``), but it counts each thread separately, takes a second for each process,
and can't make a call succeed but report a failure. ``tests/faults/test_sweep.py`` compares the two: this one misses
no call.
"""

import errno
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: What the kernel calls the functions of ``os`` and ``io`` that a fault may hit.
CALLS = {
    "open": "openat",
    "mkdir": "mkdir",
    "write": "write",
    "writev": "writev",
    "pwrite": "pwrite64",
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "ftruncate": "ftruncate",
    "rename": "rename",
    "replace": "rename",
    "unlink": "unlink",
    "remove": "unlink",
    "close": "close",
    "stat": "stat",
    "lstat": "stat",
    "fstat": "stat",
    "listdir": "getdents64",
    "scandir": "getdents64",
}
WRITES = ("write", "writev", "pwrite64")
#: Calls that change nothing on the disk can only fail.
READS = ("close", "stat", "getdents64")
#: What a fault does to its call.
EFFECTS = {
    "EIO": "is not done, and fails",
    "ENOSPC": "is not done, and fails",
    "late": "is done, and says that it failed",
    "half": "writes half, and fails or says so",
    "dead": "fails, as does all that would change the disk after it",
    "kill before": "the process is killed before it",
    "kill after": "the process is killed after it",
}


class Fault(NamedTuple):
    """The ``number``-th call, from 1, meets the ``effect``; with 0 none does."""

    number: int = 0
    effect: str = "EIO"


class Call(NamedTuple):
    """A call that was made: what the kernel calls it, and the path."""

    name: str
    path: str


def install(folder: Path, fault: Fault, log: Path) -> None:
    """Count the calls of this process below ``folder``, write each into ``log``, and cause the fault."""
    root, lock, count = f"{folder}/", threading.Lock(), 0
    written, readlink = os.write, os.readlink
    log_fd = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def wrap(call: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            nonlocal count
            target = args[0] if args else "."
            path = readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
            if not f"{path}/".startswith(root):
                return function(*args, **options)
            with lock:
                count += 1
                number = count
                written(log_fd, f"{call} {path}\n".encode())
            dead = fault.effect == "dead" and fault.number and number > fault.number and _changes(call, args)
            if number != fault.number and not dead:
                return function(*args, **options)
            return _meet(fault.effect, call, function, args, options)

        return called

    for name, call in CALLS.items():
        setattr(os, name, wrap(call, getattr(os, name)))
    opened = wrap("openat", io.open)
    io.open = lambda *args, **options: _File(opened(*args, **options), wrap)  # type: ignore[assignment]  # Path uses it
    listed = os.scandir
    os.scandir = lambda *args: _Entries(listed(*args), wrap)  # type: ignore[assignment]


class _Wrapped:
    """Wraps an object some of whose methods are calls that may meet a fault."""

    def __init__(self, inner: Any, wrap: Callable[..., Any]) -> None:
        self.inner, self.wrap = inner, wrap

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Any:
        return iter(self.inner)

    def close(self) -> None:
        self.inner.close()


class _File(_Wrapped):
    """What ``Path.open`` gives."""

    def close(self) -> None:
        self.wrap("close", lambda path: self.inner.close())(self.inner.name)


class _Entries(_Wrapped):
    """What ``os.scandir`` gives: of its entries, ``stat`` asks the disk."""

    def __iter__(self) -> Any:
        return (_Entry(one, self.wrap) for one in self.inner)


class _Entry(_Wrapped):
    def __fspath__(self) -> str:
        return str(self.inner.path)

    def stat(self, **options: Any) -> Any:
        return self.wrap("stat", lambda path: self.inner.stat(**options))(self.inner.path)


def _changes(call: str, args: tuple[Any, ...]) -> bool:
    if call in READS:
        return False
    if call != "openat":
        return True
    mode = args[1] if len(args) > 1 else "r"
    return bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else mode[0] != "r"


def _meet(effect: str, call: str, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if effect == "kill before":
        os.kill(os.getpid(), signal.SIGKILL)
    if effect == "half" and call in WRITES:
        fd, data, *rest = args
        done = function(fd, data[: len(data) // 2], *rest)
        if done:
            return done
    if effect in ("late", "kill after") or call == "close":  # the kernel closes, whatever it says
        try:
            function(*args, **options)
        finally:  # some calls fail by themselves, such as mkdir of what is there
            if effect == "kill after":
                os.kill(os.getpid(), signal.SIGKILL)
    code = errno.ENOSPC if effect in ("ENOSPC", "half") else errno.EIO
    raise OSError(code, os.strerror(code))


def calls_in(log: Path) -> list[Call]:
    """The calls that a process made, in order."""
    return [Call(*line.split(" ", 1)) for line in log.read_text().splitlines()] if log.exists() else []
