"""Single flight: any number of callers at the same time cost one call. Also with results that are kept for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from service.part import Part, cancel

Result = TypeVar("Result")


class SingleFlight(Part, Generic[Result]):
    """Shares the calls of a function without arguments among callers who want its result at the same time.

    Each caller gets the result of a call that began after it asked, so that the result includes whatever was true
    before. At most one call is running, and those who ask meanwhile share the next one. If a call raises, all who share
    it get the error. A caller that is cancelled leaves the call to the others.
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
        """Cancel what is running."""
        await cancel([task for task in (self._running, self._next) if task])

    async def _fly(self) -> Result:
        if self._running:
            await asyncio.wait([self._running])
        self._running, self._next = self._next, None
        return await self._call()


class CachedFlight(Part, Generic[Result]):
    """A single flight whose result is kept for ``seconds``, and for ``times`` the duration of the call.

    So the calls never take more than a fixed share of the time, whatever they cost and however many ask. Failures are
    not kept. Whoever asks while a call is running gets its result.
    """

    def __init__(self, call: Callable[[], Awaitable[Result]], *, seconds: float, times: float) -> None:
        self._call = call
        self._seconds, self._times = seconds, times
        self._flight = SingleFlight(self._renew)
        self._kept: tuple[Result, float] | None = None  # and until when, on the monotonic clock

    async def __call__(self) -> Result:
        """The result, kept or new."""
        return self._kept[0] if self._kept and time.monotonic() < self._kept[1] else await self._flight()

    async def close(self) -> None:
        """Cancel what is running."""
        await self._flight.close()

    async def _renew(self) -> Result:
        started = time.monotonic()
        if self._kept and started < self._kept[1]:  # by the call that was running
            return self._kept[0]
        result = await self._call()
        ended = time.monotonic()
        self._kept = result, ended + max(self._seconds, self._times * (ended - started))
        return result
