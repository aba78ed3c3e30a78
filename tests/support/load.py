"""Load that remembers which events were acknowledged, refused, or of unknown outcome; and checks them all."""

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable

from tests.support import wait_until
from tests.support.service import BATCH, WRITE, Service


class Load:
    """Clients that post batches of events without pause; each event has a name of its own in ``session_id``.

    ``name`` tells the events of one load from those of another; ``pause`` in seconds makes them rest between posts;
    ``text`` is so many characters more in each event.
    """

    def __init__(
        self, service: Service, clients: int = 4, batch: int = 5, name: str = "event", pause: float = 0, text: int = 0
    ) -> None:
        #: For each answer: its status, its Retry-After, and the seconds that it took.
        self.answers: list[tuple[int, str | None, float]] = []
        self.acknowledged: set[str] = set()
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        self._service = service
        self.name = name
        self._batch = batch
        self._pause = pause
        self._more = {"properties": {"text": "x" * text}} if text else {}
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more events are acknowledged."""
        seen = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) >= seen + count, 30)

    def _client(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            names = [f"{self.name}-{next(self._numbers)}" for _ in range(self._batch)]
            events = [{"event_name": "load", "session_id": name, **self._more} for name in names]
            body = json.dumps({"events": events})
            outcome = self.refused  # until something of it has left
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=15)
                    connection.connect()
                outcome, began = self.unknown, time.monotonic()
                connection.request("POST", BATCH, body, {"Authorization": f"Bearer {WRITE}"})
                answer = connection.getresponse()
                said = answer.read()
                self.answers.append((answer.status, answer.headers["Retry-After"], time.monotonic() - began))
                if answer.status == 200:
                    outcome = self.acknowledged
                elif b"not known" not in said:  # as a service says that dies in the middle of a write
                    outcome = self.refused
            except (OSError, http.client.HTTPException):  # refused or cut off
                if connection:
                    connection.close()
                connection = None
                self._stop.wait(0.02)
            outcome.update(names)
            if self._pause:
                self._stop.wait(self._pause)
        if connection:
            connection.close()

    def check(self, stored: Iterable[str]) -> None:
        """Every acknowledged event once, no refused one, each unknown one at most once, nothing else."""
        check_set(self.acknowledged, self.refused, self.unknown, stored)


def check_set(acknowledged: set[str], refused: set[str], unknown: set[str], stored: Iterable[str]) -> None:
    """Every acknowledged event once, no refused one, each unknown one at most once, nothing else."""
    counts = Counter(stored)
    twice = {name for name, count in counts.items() if count > 1}
    assert not twice, f"{len(twice)} events stored twice: {sorted(twice)[:5]}"
    lost = acknowledged - counts.keys()
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged events lost: {sorted(lost)[:5]}"
    assert not refused & counts.keys(), f"refused events stored: {sorted(refused & counts.keys())[:5]}"
    assert counts.keys() <= acknowledged | unknown, "events from nowhere"
