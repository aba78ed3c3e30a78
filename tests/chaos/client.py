"""The load: clients that post events of all kinds, send some of them again, and remember what became of each."""

import http.client
import itertools
import json
import random
import threading
import time
import uuid
from collections import Counter
from typing import Any

from tests.chaos.world import POISON, THROWS, World
from tests.support.service import BATCH, EVENTS, WRITE

OUTCOMES = ("acknowledged", "refused", "unknown")
#: Of 100 events drawn anew, how many are of this kind.
INVALID, WITH_ID, TEXT = 0.3, 20, 30
#: How likely an event is one that was sent before, and how likely a rare kind is, where it is tried at all.
AGAIN, RARE = 0.1, 0.01
#: Events with ids that are soon sent again, perhaps while the first is under way still.
RECENT = 20


class Sent:
    """The events with ids, of all clients: from the moment of the first sending any client may send one again."""

    def __init__(self) -> None:
        self.times = 0
        self._events: list[dict[str, Any]] = []

    def add(self, event: dict[str, Any]) -> None:
        """Let it be sent again."""
        self._events.append(event)

    def draw(self, chance: random.Random) -> dict[str, Any] | None:
        """One from just now or from long ago, of another worker, and of another life of the service."""
        if not self._events:
            return None
        self.times += 1
        return chance.choice(self._events[-RECENT:] if chance.random() < 0.5 else self._events)


class Client(threading.Thread):
    """Posts events until it is stopped. Each event has a name of its own in ``session_id``, also when sent again."""

    def __init__(
        self, world: World, seed: str, stop: threading.Event, numbers: "itertools.count[int]", again: Sent
    ) -> None:
        super().__init__(daemon=True)
        self.outcomes: dict[str, set[str]] = {kind: set() for kind in OUTCOMES}
        #: How many events had which outcome, by the port: each life of the service has its own.
        self.by_port: Counter[tuple[int, str]] = Counter()
        self._world = world
        self._chance = random.Random(seed)
        self._ended = stop
        self._numbers = numbers
        self._again = again
        self._connection = http.client.HTTPConnection("127.0.0.1", timeout=20)

    def run(self) -> None:
        while not self._ended.is_set():
            single = self._chance.random() < 0.4
            lenient = not single and self._chance.random() < 0.5
            events = [self._event() for _ in range(1 if single else self._chance.randint(1, 100))]
            for outcome, names in self._post(events, single=single, lenient=lenient):
                self.outcomes[outcome].update(names)
                self.by_port[self._connection.port, outcome] += len(names)
            self._ended.wait(self._chance.choice([0, 0.02, 0.1]))
        self._connection.close()

    def _event(self) -> dict[str, Any]:
        if self._chance.random() < AGAIN and (known := self._again.draw(self._chance)):
            return known
        event: dict[str, Any] = {"event_name": "chaos", "session_id": f"e{next(self._numbers)}"}
        if self._chance.random() * 100 < TEXT:
            event["properties"] = {"text": "x" * self._chance.randint(0, 2000)}
        if self._chance.random() * 100 < INVALID:
            return event | {"event_name": ""}
        if self._chance.random() < RARE:
            event["event_name"] = THROWS
        with_id = self._chance.random() * 100 < WITH_ID
        if with_id:
            event["event_id"] = str(self._id())
        if self._chance.random() < RARE / 3:  # not again: what is in the quarantine is known by no id
            return event | {"session_id": POISON + event["session_id"]}
        if with_id:
            self._again.add(event)
        return event

    def _id(self) -> uuid.UUID:
        random_bits = self._chance.getrandbits(128)
        if self._chance.random() < 0.5:
            return uuid.UUID(int=random_bits, version=4)
        ordered = time.time_ns() // 10**6 << 80 | random_bits & (1 << 80) - 1
        return uuid.UUID(int=ordered & ~(0xF << 76) & ~(3 << 62) | 7 << 76 | 2 << 62)

    def _post(self, events: list[dict[str, Any]], *, single: bool, lenient: bool) -> list[tuple[str, list[str]]]:
        names = [event["session_id"] for event in events]
        headers = {"Authorization": f"Bearer {WRITE}"} | ({"Prefer": "handling=lenient"} if lenient else {})
        outcome = "refused"  # until something of it has left
        broken = self._world.disk_broken
        try:
            if self._connection.sock is None:
                self._connection.port = self._world.service.port
                self._connection.connect()
            outcome = "unknown"
            body = json.dumps(events[0] if single else {"events": events})
            self._connection.request("POST", EVENTS if single else BATCH, body, headers)
            answer = self._connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            self._ended.wait(0.1)
            return [(outcome, names)]
        if answer.status != 200:  # a disk that neither syncs nor cuts may keep what was refused
            kept = answer.status == 503 and (broken or self._world.disk_broken)
            return [("unknown" if kept else "refused", names)]
        bad = {item["loc"][2] for item in told.get("errors", [])}
        assert lenient or not bad
        return [
            ("acknowledged", [name for index, name in enumerate(names) if index not in bad]),
            ("refused", [names[index] for index in bad]),
        ]
