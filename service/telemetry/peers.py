"""What all workers know together, answered by any of them.

Each worker answers its siblings on a Unix socket, as JSON. The worker that a client asks merges its own answer with
theirs. With one worker there is no socket, and nothing to merge.

Each question is a ``PeerQuery`` with a name, given where the parts are wired. ``await peers.ask("buffer")`` returns the
merged answer of all workers, each made after the question.
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

#: Seconds that a sibling has to answer. Under full load a turn of its event loop takes a tenth of that.
ANSWER_TIMEOUT = 0.5


class PeerAnswers(NamedTuple):
    """By the workers' numbers: their answers, and the fallbacks of those that were silent."""

    asked: int  #: the worker that the client asked; it is always among the known
    known: dict[int, Any]
    silent: dict[int, Any]


def _nothing(number: int) -> None:
    return None


class PeerQuery(NamedTuple):
    """A question that all workers can be asked.

    - ``own()`` returns what this worker knows, as a value fit for JSON. Each worker calls it on its event loop for each
      answer: it must be quick.
    - ``merge(answers)`` makes one answer of all; with one worker, of its own. It says who was silent, if that matters.
    - ``fallback(number)`` returns what we can find out about a worker that does not answer in time, because it is being
      restarted or hangs; None if nothing. It is called on a thread.
    """

    own: Callable[[], Any]
    merge: Callable[[PeerAnswers], Any]
    fallback: Callable[[int], Any] = _nothing


class Peers(Part):
    """Asks all workers, and answers for this one, from ``open`` to ``close``. ``folder`` has the sockets."""

    def __init__(self, worker: Worker, folder: Path, queries: Mapping[str, PeerQuery]) -> None:
        self._worker = worker
        self._folder = folder
        self._queries = queries
        self._asking = {name: SingleFlight(partial(self._ask_all, name)) for name in queries}
        self._server: asyncio.Server | None = None
        self._folder_fd = -1

    async def ask(self, name: str) -> Any:
        """The merged answer of all workers to this query."""
        if self._worker.count > 1:
            return await self._asking[name]()
        query = self._queries[name]
        return query.merge(PeerAnswers(0, {0: query.own()}, {}))

    async def open(self) -> None:
        """Start to answer siblings, if there are any."""
        if self._worker.count > 1:
            self._folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._server = await asyncio.start_unix_server(self._answer, self._socket(self._worker.number))

    async def close(self) -> None:
        """Stop answering."""
        for flight in self._asking.values():
            await flight.close()
        if self._server:
            self._server.close()
            with contextlib.suppress(OSError):  # if it stays, the next start replaces it
                os.remove(f"{self._worker.number}.sock", dir_fd=self._folder_fd)
            with contextlib.suppress(OSError):  # it is closed, whatever the disk says
                os.close(self._folder_fd)

    def _socket(self, number: int) -> str:
        # Through the descriptor: the path of a socket may have 107 bytes, and the folder's path may be longer.
        return f"/proc/self/fd/{self._folder_fd}/{number}.sock"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                name = (await reader.readline()).decode().strip()
                writer.write(orjson.dumps(self._queries[name].own()))
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # the asking worker is gone
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
            return None  # it is being restarted, has stopped, or hangs
