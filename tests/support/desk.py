"""A service in this process, whose connections a test can look into."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from service.config import Settings
from service.edge import access_tokens as tokens
from service.edge import sockets
from service.edge.connection import Connection
from service.edge.listener import Listener
from service.server.app import create_app
from service.server.lifecycle import Lifecycle
from service.server.parts import Parts
from service.spool.data_dir import DataDir
from service.store.dsn import parse_dsn
from service.store.store import Store
from tests.support.service import WRITE

KNOWN = tokens.from_environment(WRITE, "reader")
NOWHERE = "http://127.0.0.1:1/analytics"


class Desk:
    """The parts of a service without ClickHouse, and its server; it listens with any kind of connection."""

    def __init__(self, parts: Parts, runner: web.AppRunner, settings: Settings) -> None:
        self.parts, self.runner, self._settings = parts, runner, settings
        self.load = parts.context.load
        self._listeners: list[Listener] = []

    @property
    def server(self) -> web.Server:
        assert self.runner.server
        return self.runner.server

    def listen(self, connect: Callable[[], Connection], header_timeout: float = 1.0) -> int:
        """Listen on a port, which is returned; ``connect`` makes the connections."""
        bound = sockets.bind(self._settings)
        self._listeners.append(Listener(bound.events, self.server, connect, self.load, 100, header_timeout))
        self._listeners[-1].start(asyncio)
        return bound.port

    async def close(self) -> None:
        """Stop listening; the parts are closed by ``open_desk``."""
        for listener in self._listeners:
            await listener.drain(1)
            await listener.close()


AnyDesk = TypeVar("AnyDesk", bound=Desk)


@asynccontextmanager
async def open_desk(folder: Path, kind: type[AnyDesk]) -> AsyncIterator[AnyDesk]:
    """A desk with a data folder there; at its end nothing may be in flight."""
    data = DataDir(folder / "data")
    settings = Settings(flush_interval=0.1, host="127.0.0.1", port=0)
    parts = Parts(settings, data, KNOWN, Store(parse_dsn(NOWHERE, folder), migrating=False))
    parts.recover()
    life = Lifecycle(parts.in_order(), lambda: None)
    await life.start()
    runner = web.AppRunner(create_app(parts.context))
    await runner.setup()
    desk = kind(parts, runner, settings)
    yield desk
    await desk.close()
    await runner.cleanup()
    await life.stop(1)
    data.close()
    assert not life.failed
    assert desk.load.bytes == 0


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for that; TimeoutError if it is not so in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.001)
