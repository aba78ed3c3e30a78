"""Latency at half of the peak: ``make bench-latency``.

The peak is measured with wrk. Then events are sent at a rate, whatever the answers do: at random times known
beforehand, each on the first idle connection. A time counts from the moment at which the event was due, so an
answer that holds up others counts for them too. What the generator itself was late is said beside it, and what the
service counted. ClickHouse shares a core with the generator, which has the right of way if the system allows.

Then, at the same rate, some events carry a mark, and the table is asked again and again for the marks: the time
from the answer to the first look that finds the event.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from service.telemetry.metrics import REQUEST_SECONDS
from tests.bench.corpus import encode, make_events, single_bodies
from tests.bench.targets import SEED, SINGLE, Target, all_targets, markdown, percentiles, stay_on_load_core, wrk
from tests.bench.targets import write_scripts as scripts_in
from tests.support.checks import drained
from tests.support.clickhouse import query
from tests.support.metrics import scrape
from tests.support.service import EVENTS, WRITE, Service

OUTPUT = Path("build/bench-latency.json")
MARK_EVERY_SECONDS = 0.05
LOOK_EVERY_SECONDS = 0.03
#: With so many wrk comes to about half of what it reaches with 64.
FEW_CONNECTIONS = 16


class Connection(asyncio.Protocol):
    """One HTTP connection that sends a request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answered: asyncio.Future[bytes] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the result is the head of the answer."""
        self._received = b""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and self._answered and not self._answered.done():
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                self._answered.set_result(head)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered and not self._answered.done():
            self._answered.set_exception(error or ConnectionError("closed"))
        if self._transport:
            self._transport.close()


class Generator:
    """Sends events at a rate, whatever the answers do."""

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._count = connections
        self._idle: deque[Connection] = deque()
        self._due: deque[tuple[float, bytes, str]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.answered_at: dict[str, float] = {}

    async def connect(self) -> None:
        """Open the connections."""
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            self._idle.append((await loop.create_connection(Connection, "127.0.0.1", self._port))[1])

    async def run(self, rate: float, seconds: float, bodies: list[bytes], marks: list[tuple[str, bytes]]) -> None:
        """Send for so long; ``marks`` are sent beside the others, evenly."""
        rng = random.Random(SEED)
        plan: list[tuple[float, bytes, str]] = []
        when = 0.0
        while (when := when + rng.expovariate(rate)) < seconds:
            plan.append((when, bodies[len(plan) % len(bodies)], ""))
        plan += [(number * MARK_EVERY_SECONDS, body, name) for number, (name, body) in enumerate(marks)]
        plan.sort(key=lambda one: one[0])
        start = time.perf_counter() + 0.1
        for when, body, name in plan:
            if (wait := start + when - time.perf_counter()) > 0.0005:
                await asyncio.sleep(wait)
            self.lateness.append(time.perf_counter() - start - when)
            self._due.append((start + when, _request(body), name))
            self._send_due()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._idle.clear()

    def _send_due(self) -> None:
        while self._due and self._idle:
            task = asyncio.create_task(self._exchange(self._idle.popleft(), *self._due.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _exchange(self, connection: Connection, due: float, request: bytes, name: str) -> None:
        head = await connection.send(request)
        now = time.perf_counter()
        assert b" 200 " in head.partition(b"\r\n")[0], head
        self.latencies.append(now - due)
        if name:
            self.answered_at[name] = now
        self._idle.append(connection)
        self._send_due()


def _request(body: bytes) -> bytes:
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {WRITE}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def watch(dsn: str, seen_at: dict[str, float], missing: set[str]) -> None:
    """Look for marked events until all are there."""
    sql = "SELECT session_id FROM events WHERE event_name = 'mark' AND received_at > now64(3) - 10"
    while missing:
        found = await asyncio.to_thread(query, dsn, sql)
        now = time.perf_counter()
        for (name,) in found:
            if name in missing:
                missing.discard(name)
                seen_at[name] = now
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def measure(target: Target, peak: float, args: argparse.Namespace) -> dict[str, Any]:
    """Both times at half of the peak."""
    assert target.service
    before, rate = target.service.stats()["total_events"], peak / 2
    plain = Generator(target.port, args.connections)
    await plain.connect()
    counted = await asyncio.to_thread(counts, target.service)
    await plain.run(rate, args.seconds, single_bodies(2000, SEED), [])
    served = [new - old for new, old in zip(await asyncio.to_thread(counts, target.service), counted, strict=True)]

    marks = {f"mark-{number}": _mark(f"mark-{number}") for number in range(int(args.seconds / MARK_EVERY_SECONDS))}
    marked, seen_at = Generator(target.port, args.connections), dict[str, float]()
    await marked.connect()
    watching = asyncio.create_task(watch(target.service.environment["ANALYTICS_CLICKHOUSE_DSN"], seen_at, set(marks)))
    await marked.run(rate, args.seconds, single_bodies(2000, SEED), list(marks.items()))
    await asyncio.wait_for(watching, 60)

    acknowledged = len(plain.latencies) + len(marked.latencies)
    await asyncio.to_thread(target.service.wait_for_total, before + acknowledged, 60)  # not one more, not one fewer
    visible = [max(0.0, seen_at[name] - answered) for name, answered in marked.answered_at.items()]
    return {
        "peak": peak,
        "rate": rate,
        "post": dict(zip(("p50", "p99"), percentiles(plain.latencies), strict=True)),
        "served": {cut: quantile(served, share) for cut, share in (("p50", 0.5), ("p99", 0.99))},
        "late": dict(zip(("p50", "p99"), percentiles(plain.lateness), strict=True)),
        "visible": dict(zip(("p50", "p99"), percentiles(visible), strict=True)),
        "acknowledged": acknowledged,
    }


def counts(service: Service) -> list[float]:
    """How many single events the service has answered, by the bounds of its metrics; one beyond."""
    found = {
        labels["le"]: value
        for labels, value in scrape(service).series("analytics_http_request_duration_seconds_bucket")
        if labels["route"] == EVENTS
    }
    upto = [found.get(str(bound), 0.0) for bound in (*REQUEST_SECONDS, "+Inf")]
    return [more - less for more, less in zip(upto, [0.0, *upto], strict=False)]


def quantile(counted: list[float], share: float) -> float:
    """The time below which that share lies, as if times were spread evenly between two bounds."""
    left = share * sum(counted)
    for count, low, high in zip(counted, (0.0, *REQUEST_SECONDS), REQUEST_SECONDS, strict=False):
        if left <= count:
            return low + (high - low) * left / count
        left -= count
    return REQUEST_SECONDS[-1]


def _mark(name: str) -> bytes:
    return encode(make_events(1, SEED)[0] | {"event_name": "mark", "session_id": name})


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="of each of the three loads")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    stay_on_load_core()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, all_targets(Path(folder), ["server"]) as targets:
        target = targets["server"]
        assert target.service
        found = wrk(target, scripts_in(Path(folder))[SINGLE.name], args.seconds, args.connections)
        drained(target.service, 120)  # what the load left must not stand before the events that are timed
        few = wrk(target, scripts_in(Path(folder))[SINGLE.name], args.seconds, FEW_CONNECTIONS)
        drained(target.service, 120)
        with contextlib.suppress(PermissionError):  # ClickHouse has this core too: answers would wait to be seen
            os.setpriority(os.PRIO_PROCESS, 0, -15)
        result = asyncio.run(measure(target, found["requests"] / found["seconds"], args))
    result["few"] = {cut: few[f"{cut}_ms"] / 1e3 for cut in ("p50", "p99")}
    few_rate = few["requests"] / few["seconds"]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    labels = {
        "post": "single POST, as its client sees it",
        "late": "of which the generator was late",
        "few": f"single POST, as wrk sees it on {FEW_CONNECTIONS} connections, {few_rate:,.0f} requests/s",
        "served": "single POST, from its head to its answer, by the service's metrics",
        "visible": "acknowledged → visible",
    }
    rows = [[text, *(f"{result[name][cut] * 1e3:,.1f}" for cut in ("p50", "p99"))] for name, text in labels.items()]
    print(f"{result['rate']:,.0f} requests/s, half of {result['peak']:,.0f}\n")
    print(markdown(["time", "p50, ms", "p99, ms"], rows))


if __name__ == "__main__":
    main()
