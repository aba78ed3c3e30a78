"""An event loop in which nothing is left to chance: time passes only when all wait for it, and threads are steps."""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


class _NoWaiting(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Does not wait: the time that it should wait has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs by steps. What is put on a thread is done in the loop, in a step of its own."""

    def __init__(self) -> None:
        self._passed = _NoWaiting()
        super().__init__(self._passed)

    def time(self) -> float:
        return 1000.0 + self._passed.now

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()

        def call() -> None:
            if not future.cancelled():
                try:
                    future.set_result(func(*args))
                except Exception as error:  # noqa: BLE001 - as an executor does
                    future.set_exception(error)

        self.call_soon(call)
        return future

    def step(self) -> bool:
        """Let everything that can go on go on once; False if there is nothing for which to wait."""
        if not self._ready and not self._scheduled:  # type: ignore[attr-defined]
            return False
        asyncio.events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            asyncio.events._set_running_loop(None)
        return True
