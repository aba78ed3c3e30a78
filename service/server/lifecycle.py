"""The life of a worker's parts: opened and started in order, watched while they run, drained and closed in reverse.

    open all ──► start all ──► running ──► drain and close each, the last first
                                  │
                                  └── a task or a thread ends: ``on_failure``, and the process ends

A part that has died can't say what it left half done. The next start need not know: it trusts nothing but the disk
and the table. So no part is restarted in a process that goes on.
"""

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from service.part import Part

#: How many of the calls that led to a failure its line in the log shows, the last ones first.
_CALLS_SHOWN = 4
_log = logging.getLogger(__name__)


class Lifecycle:
    """Runs parts. ``on_failure`` is called once, when something ends that should have gone on."""

    def __init__(self, parts: Sequence[Part], on_failure: Callable[[], None]) -> None:
        self.failed = False
        self._parts = parts
        self._on_failure = on_failure
        self._stopping = False
        self._excepthook = threading.excepthook

    async def start(self) -> None:
        """Open all parts, then start them. Raises what they raise; ``stop`` must be called even then."""
        threading.excepthook = partial(_thread_ended, asyncio.get_running_loop(), self._fail)
        for part in self._parts:
            await part.open()
        for part in self._parts:
            part.start(self)

    def create_task(self, coro: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start a task that runs until its part is closed."""
        task = asyncio.create_task(coro, name=name)
        task.add_done_callback(self._ended)
        return task

    async def stop(self, seconds: float) -> None:
        """Drain and close all parts, the last first, whatever fails. Draining takes about ``seconds`` in all."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        for part in reversed(self._parts):
            try:
                try:
                    await part.drain(max(0.0, until - loop.time()))
                finally:
                    await part.close()
            except Exception as error:
                self._fail(f"the end of {type(part).__name__}", error)
        threading.excepthook = self._excepthook

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error or not self._stopping:
            ended = "it was cancelled" if task.cancelled() else "it returned"
            self._fail(f"the task {task.get_name()!r}", error or ended)

    def _fail(self, what: str, why: BaseException | str) -> None:
        if self.failed:  # the others end as a consequence
            return
        self.failed = True
        reason = why if isinstance(why, str) else f"{why!r}, at {_calls(why)}"
        _log.critical("%s has failed, and the process ends: %s", what, reason)
        self._on_failure()


def _thread_ended(
    loop: asyncio.AbstractEventLoop, fail: Callable[[str, BaseException | str], None], ended: threading.ExceptHookArgs
) -> None:
    name = ended.thread.name if ended.thread else "without a name"
    with suppress(RuntimeError):  # the loop has ended too
        loop.call_soon_threadsafe(fail, f"the thread {name!r}", ended.exc_value or "it ended")


def _calls(error: BaseException) -> str:
    """Where the error was raised, and the calls that led there, on one line."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_CALLS_SHOWN:])
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames) or "no line"
