"""What all workers know, told by whichever of them is asked.

Each worker answers on a Unix socket of its own what it knows itself, as JSON. The one that a client asks puts its
own answer and its siblings' together. With one worker there is no socket, and nothing to put together.

What can be asked is a ``PeerQuery``, given by its name where the parts are wired. ``await peers.ask("buffer")`` is the
merged answer of all workers, each worked out after the question.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from service.part import Part
from service.telemetry.single_flight import SingleFlight
from service.worker import Worker

#: Seconds that a sibling has to answer. Under full load its event loop takes a tenth of that for a turn.
ANSWER_TIMEOUT = 0.5


class PeerAnswers(NamedTuple):
    """By the workers' numbers: what they answered, and of those that were silent what could be found out."""

    asked: int  #: the worker that the client asked; it is always among the known
    known: dict[int, Any]
    silent: dict[int, Any]


def _nothing(number: int) -> None:
    return None


class PeerQuery(NamedTuple):
    """Something that all workers can be asked.

    - ``own()`` is what this worker knows: a value that JSON can carry. It is called on the event loop, of each worker,
      for each answer: it must be quick.
    - ``merge(answers)`` makes the answer of all; with one worker, of its own alone. It says who was silent, if it
      matters.
    - ``fallback(number)`` is what can be found out about a worker that does not answer in time, since it is being
      restarted or hangs; it is called on a thread. None if nothing can.
    """

    own: Callable[[], Any]
    merge: Callable[[PeerAnswers], Any]
    fallback: Callable[[int], Any] = _nothing


class Peers(Part):
    """Asks all workers, and answers for this one, from ``open`` to ``close``. ``folder`` is that of the sockets."""

    def __init__(self, worker: Worker, folder: Path, queries: Mapping[str, PeerQuery]) -> None:
        self._worker = worker
        self._folder = folder
        self._queries = queries
        self._asking = {name: SingleFlight(partial(self._ask_all, name)) for name in queries}
        self._server: asyncio.Server | None = None
        self._folder_fd = -1

    async def ask(self, name: str) -> Any:
        """What all workers answer to this query."""
        if self._worker.count > 1:
            return await self._asking[name]()
        query = self._queries[name]
        return query.merge(PeerAnswers(0, {0: query.own()}, {}))

    async def open(self) -> None:
        """Answer the siblings, if there are any."""
        if self._worker.count > 1:
            self._folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._server = await asyncio.start_unix_server(self._answer, self._socket(self._worker.number))

    async def close(self) -> None:
        """Be silent."""
        for flight in self._asking.values():
            await flight.close()
        if self._server:
            self._server.close()
            with contextlib.suppress(OSError):  # else the next start takes its place
                os.remove(f"{self._worker.number}.sock", dir_fd=self._folder_fd)
            with contextlib.suppress(OSError):  # it is closed, whatever the disk says
                os.close(self._folder_fd)

    def _socket(self, number: int) -> str:
        # By the descriptor: the path of a socket may have 107 bytes, and that of a folder more.
        return f"/proc/self/fd/{self._folder_fd}/{number}.sock"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                name = (await reader.readline()).decode().strip()
                writer.write(orjson.dumps(self._queries[name].own()))
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # who asked is gone
        finally:
            writer.close()

    async def _ask_all(self, name: str) -> Any:
        number, query = self._worker.number, self._queries[name]
        siblings = [one for one in range(self._worker.count) if one != number]
        answers = await asyncio.gather(*(self._ask_one(one, name) for one in siblings))
        known: dict[int, Any] = {}
        silent: dict[int, Any] = {}
        for one, answer in zip(siblings, answers, strict=True):
            if answer:
                [known[one]] = answer
            else:
                silent[one] = await asyncio.to_thread(query.fallback, one)
        known[number] = query.own()
        return query.merge(PeerAnswers(number, dict(sorted(known.items())), silent))

    async def _ask_one(self, number: int, name: str) -> tuple[Any] | None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                try:
                    writer.write(f"{name}\n".encode())
                    return (orjson.loads(await reader.read()),)
                finally:
                    writer.close()
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None  # it is being restarted, it has stopped already, or it hangs
