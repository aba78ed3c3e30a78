"""Single flight: any number who ask at the same time cost one call. And results that are kept for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from service.part import Part, cancel

Result = TypeVar("Result")


class SingleFlight(Part, Generic[Result]):
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
        await cancel([task for task in (self._running, self._next) if task])

    async def _fly(self) -> Result:
        if self._running:
            await asyncio.wait([self._running])
        self._running, self._next = self._next, None
        return await self._call()


class CachedFlight(Part, Generic[Result]):
    """A single flight whose result is kept: for ``seconds``, and for ``times`` as long as the call took.

    So the calls never take more than that share of the time, whatever they cost and however many ask. A failure is not
    kept. Who asks while a call is under way gets its result.
    """

    def __init__(self, call: Callable[[], Awaitable[Result]], *, seconds: float, times: float) -> None:
        self._call = call
        self._seconds, self._times = seconds, times
        self._flight = SingleFlight(self._renew)
        self._kept: tuple[Result, float] | None = None  # and until when, on the monotonic clock

    async def __call__(self) -> Result:
        """The result, as old as was said at most."""
        return self._kept[0] if self._kept and time.monotonic() < self._kept[1] else await self._flight()

    async def close(self) -> None:
        """End what is under way."""
        await self._flight.close()

    async def _renew(self) -> Result:
        started = time.monotonic()
        if self._kept and started < self._kept[1]:  # by the call that was under way
            return self._kept[0]
        result = await self._call()
        ended = time.monotonic()
        self._kept = result, ended + max(self._seconds, self._times * (ended - started))
        return result
