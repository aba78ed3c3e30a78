"""Deaths of tasks and threads, made in the service itself: a function that fails once, when a test says so."""

import asyncio
import errno
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.service import Service, patched

ROOT = Path(__file__).parents[2]
#: What a process finds in its folder when it is to die; it takes it away.
WORD = "die"


def doomed(function: str, how: str = "fails", of: str = "", more: str = "pass") -> tuple[str, ...]:
    """A prefix for ``Service.start``: when told, this function (``module:Class.name``) does not do what it did.

    It ``fails``, or the ``disk`` does. It may be a coroutine function that runs for ever: then it ``returns``, or is
    ``cancelled``. ``of`` is the name of the object that is meant. ``more`` are other statements.
    """
    install = f"import tests.support.deaths as d; d.install({function!r}, {how!r}, {of!r})"
    return patched(f"sys.path.append({str(ROOT)!r}); {install}; {more}")


def tell(service: Service) -> None:
    """The function's next call is the one."""
    (service.folder / WORD).touch()


def install(function: str, how: str, of: str) -> None:
    """In the process that is to die."""
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
