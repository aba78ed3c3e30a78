"""A part of a worker: something that runs, or holds something that it must release. All have the same four verbs."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Protocol


class Tasks(Protocol):
    """Where a part starts its tasks: the worker's ``Lifecycle``, a ``TaskGroup``, or ``asyncio`` itself."""

    def create_task(self, coro: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run a coroutine beside the others."""


class Part(Protocol):
    """Each verb is called once, in this order. Those inherited from here do nothing, for parts that need fewer."""

    async def open(self) -> None:
        """Get ready. Raises StartError, StoreError, OSError: then no part starts, and all are closed."""
        return

    def start(self, tasks: Tasks) -> None:
        """Begin. Whatever runs until ``close`` is a task of ``tasks``: if it ends earlier, the process ends.

        Raises StartError.
        """
        return

    async def drain(self, seconds: float) -> None:
        """Take no more, and finish what is in progress, in about ``seconds``."""
        return

    async def close(self) -> None:
        """Release everything, whether it was started or not."""
        return


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
