"""From the start of the process to the first answer: ``make bench-start``.

Each store in turn, round after round: on a new data folder and a new database, where the tables are made, and on
those that the first start left. CPU is user and system time until then, of all processes of the service: other work
on the machine changes it least.
"""

import argparse
import http.client
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.targets import clickhouse, cpu_seconds, markdown
from tests.support.clickhouse import free_port
from tests.support.service import Service

OUTPUT = Path("build/bench-start.json")
STORES = ("server", "embedded", "server, 2 workers")


def first_answer(service: Service) -> tuple[float, float]:
    """Start it: the seconds to the first answer, and of CPU."""
    service.port = port = free_port()
    service.environment["ANALYTICS_PORT"] = str(port)
    started = time.perf_counter()
    service.start(wait=False)
    assert service.process
    while True:
        try:
            if service.get("/livez").status == 200:
                break
        except (OSError, http.client.HTTPException):
            assert service.process.poll() is None, service.log()
            assert time.perf_counter() - started < 60, service.log()
            time.sleep(0.005)
    return time.perf_counter() - started, cpu_seconds(service.process.pid)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, clickhouse(Path(name)) as server:
        for number in range(args.rounds):
            for store in args.stores:
                dsn = "chdb://" if store == "embedded" else server.dsn(f"start_{number}_{STORES.index(store)}")
                environment = {"ANALYTICS_WORKERS": 2} if "workers" in store else {}
                service = Service(Path(name) / f"{store}-{number}", ANALYTICS_CLICKHOUSE_DSN=dsn, **environment)
                try:
                    for start in ("first", "next"):
                        found.setdefault((store, start), []).append(first_answer(service))
                        service.stop()
                finally:
                    service.end()
    result: list[dict[str, Any]] = [
        {
            "store": store,
            "start": start,
            "seconds": median(seconds for seconds, _ in times),
            "best": min(seconds for seconds, _ in times),
            "cpu": median(used for _, used in times),
        }
        for (store, start), times in found.items()
    ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    rows = [[one["store"], one["start"], *(f"{one[key]:.2f}" for key in ("seconds", "best", "cpu"))] for one in result]
    print(markdown(["ClickHouse", "start", "s to the first answer", "best of them", "s of CPU"], rows))


if __name__ == "__main__":
    main()
