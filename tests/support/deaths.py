"""Deaths of tasks and threads, caused inside the service: a function fails once, when a test says so."""

import asyncio
import errno
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.service import Service, patched

ROOT = Path(__file__).parents[2]
#: The file that tells a process to die; the process deletes it.
WORD = "die"


def doomed(function: str, how: str = "fails", of: str = "", more: str = "pass") -> tuple[str, ...]:
    """A prefix for ``Service.start``: once told, this function (``module:Class.name``) does not work any more.

    It ``fails``, or the ``disk`` does. It may be a coroutine function that runs for ever: then it ``returns``, or is
    ``cancelled``. ``of`` is the name of the object that is meant. ``more`` are other statements.
    """
    install = f"import tests.support.deaths as d; d.install({function!r}, {how!r}, {of!r})"
    return patched(f"sys.path.append({str(ROOT)!r}); {install}; {more}")


def trigger(service: Service) -> None:
    """Make the function's next call fail."""
    (service.folder / WORD).touch()


def install(function: str, how: str, of: str) -> None:
    """Patch the function, in the process that is to die."""
    owner, name = function.rsplit(".", 1)
    setattr(pkgutil.resolve_name(owner), name, _wrapped(pkgutil.resolve_name(function), how, of))


def _wrapped(function: Callable[..., Any], how: str, of: str) -> Callable[..., Any]:
    def fails(*args: Any, **options: Any) -> Any:
        if (of and args[0].name != of) or not _told():
            return function(*args, **options)
        raise OSError(errno.EIO, os.strerror(errno.EIO)) if how == "disk" else ZeroDivisionError("a bug")

    async def ends(*args: Any) -> None:
        running = asyncio.create_task(function(*args))
        while not _told():  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.01)
        running.cancel()
        if how == "cancelled":
            raise asyncio.CancelledError

    return ends if how in ("returns", "cancelled") else fails


def _told() -> bool:
    try:
        Path(WORD).unlink()
    except FileNotFoundError:
        return False
    return True
