"""The nemesis: random faults under random load, and at the end the check of the whole set. The seed is printed.

    make chaos SEED=7 SECONDS=600

The seed decides which faults come in which order and what the clients send; when exactly they meet is up to the
machine. At the end every acknowledged event must be in the table once, no refused one, each one of unknown outcome at
most once, and nothing else; and the statistics must say what the table says. The metrics must add up, and say what the
clients were told: of the last life of the process, since they begin at zero with it.
"""

import argparse
import http.client
import itertools
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.checks import drained, sessions
from tests.support.clickhouse import ClickHouseServer
from tests.support.load import check_set
from tests.support.metrics import scrape
from tests.support.proxy import Proxy
from tests.support.service import BATCH, EVENTS, WRITE, Service, patched

CLIENTS = 5
#: Backoff is shortened, so that there are more tries to go wrong; and an insert is given up while it may still run.
IMPATIENT = patched("service.store.INSERT_TIMEOUT = 2.0; service.lane.BACKOFF_MAX = 0.5")
OUTCOMES = ("acknowledged", "refused", "unknown")
FATES = ["pass", "cut-body", "cut-answer", "cut-answer", "late-body", "hold-answer"]


class Client(threading.Thread):
    """Posts events of all kinds, and remembers what became of each."""

    def __init__(self, service: Service, seed: str, stop: threading.Event, numbers: "itertools.count[int]") -> None:
        super().__init__(daemon=True)
        self.outcomes: dict[str, set[str]] = {kind: set() for kind in OUTCOMES}
        #: How many events had which outcome, by the port: each life of the service has its own.
        self.by_port: Counter[tuple[int, str]] = Counter()
        self._service = service
        self._chance = random.Random(seed)
        self._ended = stop
        self._numbers = numbers
        self._connection = http.client.HTTPConnection("127.0.0.1", timeout=20)

    def run(self) -> None:
        while not self._ended.is_set():
            single = self._chance.random() < 0.4
            events = [self._event() for _ in range(1 if single else self._chance.randint(1, 100))]
            lenient = not single and self._chance.random() < 0.5
            for outcome, names in self._post(events, single=single, lenient=lenient):
                self.outcomes[outcome].update(names)
                self.by_port[self._connection.port, outcome] += len(names)
            self._ended.wait(self._chance.choice([0, 0.005, 0.05]))
        self._connection.close()

    def _event(self) -> dict[str, Any]:
        event = {"event_name": "chaos", "session_id": f"e{next(self._numbers)}"}
        if self._chance.random() < 0.3:
            event["properties"] = {"text": "x" * self._chance.randint(0, 2000)}
        if self._chance.random() < 0.01:
            event["event_name"] = ""
        return event

    def _post(self, events: list[dict[str, Any]], *, single: bool, lenient: bool) -> list[tuple[str, list[str]]]:
        names = [event["session_id"] for event in events]
        headers = {"Authorization": f"Bearer {WRITE}"} | ({"Prefer": "handling=lenient"} if lenient else {})
        outcome = "refused"  # until something of it has left
        try:
            if self._connection.sock is None:
                self._connection.port = self._service.port
                self._connection.connect()
            outcome = "unknown"
            body = json.dumps(events[0] if single else {"events": events})
            self._connection.request("POST", EVENTS if single else BATCH, body, headers)
            answer = self._connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            self._ended.wait(0.02)
            return [(outcome, names)]
        if answer.status != 200:
            return [("refused", names)]
        bad = {item["loc"][2] for item in told.get("errors", [])}
        assert lenient or not bad
        return [
            ("acknowledged", [name for index, name in enumerate(names) if index not in bad]),
            ("refused", [names[index] for index in bad]),
        ]


class Nemesis:
    """One fault after the other, each undone before the next."""

    def __init__(
        self, service: Service, server: ClickHouseServer, proxy: Proxy, chance: random.Random, prefix: tuple[str, ...]
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._service = service
        self._server = server
        self._proxy = proxy
        self._chance = chance
        self._prefix = prefix
        self._kinds: list[Callable[[], None]] = [
            self.kill_service, self.kill_service, self.stop_service, self.pause_service,
            self.kill_clickhouse, self.pause_clickhouse, self.restart_clickhouse,
            self.refuse, self.cut, self.spoil_inserts, self.spoil_inserts,
            self.kill_both,
        ]  # fmt: skip

    def strike(self) -> None:
        """Any fault."""
        if self._server.died:  # this version aborts when a connection is reset in the middle of an INSERT
            self.faults["clickhouse_aborted"] += 1
            self._server.start()
        fault = self._chance.choice(self._kinds)
        self.faults[fault.__name__] += 1
        fault()

    def rest(self, most: float) -> None:
        """Let it run for a while."""
        time.sleep(self._chance.uniform(0, most))

    def start_service(self) -> None:
        """Start it, with shrunk constants."""
        self._service.start(prefix=self._prefix)

    def kill_service(self) -> None:
        self._service.kill()
        self.rest(0.3)
        self.start_service()

    def stop_service(self) -> None:
        assert self._service.stop(self._chance.choice([signal.SIGTERM, signal.SIGINT])) == 0
        self.start_service()

    def pause_service(self) -> None:
        assert self._service.process
        self._service.process.send_signal(signal.SIGSTOP)
        self.rest(3)
        self._service.process.send_signal(signal.SIGCONT)

    def kill_clickhouse(self) -> None:
        self._server.kill()
        self.rest(1)
        self._server.start()

    def restart_clickhouse(self) -> None:
        self._server.stop()
        self._server.start()

    def pause_clickhouse(self) -> None:
        self._server.pause()
        self.rest(4)
        self._server.resume()

    def kill_both(self) -> None:
        self._server.kill()
        self.rest(0.2)
        self._service.kill()
        starts = [self._server.start, self.start_service]
        self._chance.shuffle(starts)
        for start in starts:
            start()

    def refuse(self) -> None:
        self._proxy.refuse()
        self.rest(2)
        self._proxy.open()

    def cut(self) -> None:
        for _ in range(self._chance.randint(1, 10)):
            self._proxy.cut()
            self.rest(0.1)

    def spoil_inserts(self) -> None:
        self._proxy.fates.extend(self._chance.choices(FATES, k=self._chance.randint(1, 5)))
        self.rest(1)


def run(folder: Path, seed: int, seconds: float, prefix: tuple[str, ...] = IMPATIENT) -> str:
    """The report of a run that ended well; AssertionError tells what did not."""
    chance = random.Random(seed)
    server = ClickHouseServer(folder / "clickhouse").start()
    proxy = Proxy(server.port).open()
    dsn = server.dsn("analytics")
    settings = {"FLUSH_INTERVAL": chance.choice([0.02, 0.1, 0.5]), "BATCH_SIZE": chance.choice([250, 1000, 10_000])}
    service = Service(folder / "service", ANALYTICS_CLICKHOUSE_DSN=proxy.dsn(dsn), ANALYTICS_SHUTDOWN_TIMEOUT=3)
    service.environment |= {f"ANALYTICS_{name}": str(value) for name, value in settings.items()}
    stop, numbers = threading.Event(), itertools.count()
    clients = [Client(service, f"{seed}/{number}", stop, numbers) for number in range(CLIENTS)]
    nemesis = Nemesis(service, server, proxy, chance, prefix)
    try:
        nemesis.start_service()
        for client in clients:
            client.start()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            nemesis.rest(2)
            nemesis.strike()
        stop.set()
        for client in clients:
            client.join(60)
            assert not client.is_alive()
        proxy.fates.clear()
        if server.died:
            server.start()
        drained(service, 180)
        stored = sessions(dsn)
        acknowledged, refused, unknown = (set().union(*(one.outcomes[kind] for one in clients)) for kind in OUTCOMES)
        check_set(acknowledged, refused, unknown, stored)
        metrics = check_metrics(service, sum((one.by_port for one in clients), Counter()))
        stats = service.stats()
        assert stats["total_events"] == stats["buffer_status"]["events_flushed_total"] == len(stored), stats
        quarantine = service.data / "quarantine"
        assert not quarantine.exists() or not list(quarantine.iterdir())
        return (
            f"{len(acknowledged)} acknowledged, {len(refused)} refused, {len(unknown)} unknown"
            f" ({len(unknown & set(stored))} of them stored), {len(stored)} stored; lost 0, twice 0;"
            f" metrics of the last life {metrics}; {settings};"
            f" {dict(sorted(nemesis.faults.items()))}"
        )
    finally:
        stop.set()
        if service.process and service.process.poll() is None:
            service.process.send_signal(signal.SIGCONT)
        service.end()
        proxy.close()
        server.stop()


def check_metrics(service: Service, by_port: Counter[tuple[int, str]]) -> dict[str, int]:
    """The counts of the last life of a service that has drained: they add up, and are what clients were told."""
    told, unknown = by_port[service.port, "acknowledged"], by_port[service.port, "unknown"]
    found = {name: int(count) for name, count in scrape(service).balance().items()}
    assert told <= found["accepted"] <= told + unknown, (found, told, unknown)
    assert found["duplicate"] == found["quarantined"] == found["lost"] == found["pending"] == 0, found
    return {name: found[name] for name in ("accepted", "recovered", "flushed")} | {"told": told, "unknown": unknown}


def main() -> None:
    """The command behind `make chaos`."""
    parser = argparse.ArgumentParser(description="random faults under random load")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {arguments.seed}, {arguments.seconds:.0f} s, in {folder}", flush=True)
    try:
        print(run(folder, arguments.seed, arguments.seconds))
    except AssertionError as error:
        sys.exit(f"FAILED, seed {arguments.seed}: {error}")


if __name__ == "__main__":
    main()
