"""Single flight: any number who ask at the same time cost one call."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Shares the calls of a function without arguments among those who want its result at the same time.

    Everyone gets the result of a call that began after they asked, never of one under way: so what was true before
    they asked is in it. At most one call is under way, and those who come meanwhile share the next one. What a call
    raises, all who share it get; one who is cancelled leaves the call to the others.
    """

    def __init__(self, call: Callable[[], Awaitable[Result]]) -> None:
        self._call = call
        self._running: asyncio.Task[Result] | None = None
        self._next: asyncio.Task[Result] | None = None

    async def __call__(self) -> Result:
        """The result of a call that has not begun yet."""
        if self._next is None:
            self._next = asyncio.create_task(self._fly())
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """End what is under way."""
        tasks = [task for task in (self._running, self._next) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fly(self) -> Result:
        if self._running:
            await asyncio.wait([self._running])
        self._running, self._next = self._next, None
        return await self._call()
