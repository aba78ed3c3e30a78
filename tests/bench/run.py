"""Requests a second, in turn with a peer: ``make bench ROUNDS=3 SECONDS=5``.

Every round loads each server in turn, so that what else the machine does meets all of them: ratios within a
round are what counts. Afterwards everything that was acknowledged must be in ClickHouse, or the run fails.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.targets import KINDS, Kind, Target, all_targets, markdown, stay_on_load_core, write_scripts, wrk
from tests.support import wait_until

TARGETS = ("peer", "bare", "server", "embedded", "workers")
LABELS = {
    "peer": "FastAPI peer, stores nothing",
    "bare": "bare aiohttp handler",
    "server": "service, ClickHouse server",
    "embedded": "service, embedded ClickHouse",
    "workers": "service, 2 workers on all cores",
}
OUTPUT = Path("build/bench.json")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each load, whole")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds of a load that is not timed; 0 for none")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--bodies", type=int, default=2000, help="different bodies of single events")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS[:-1]))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--plot", type=Path, help="also draw the ratios into this SVG")
    args = parser.parse_args()

    stay_on_load_core()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = measure(args, Path(folder))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    for name, check in result["checks"].items():
        print(f"{LABELS[name]}: {check['acknowledged']} events acknowledged, {check['stored']} in ClickHouse")
    if args.plot:
        from tests.bench.plot import draw

        draw(result, LABELS, args.plot)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start the servers, load them in turn, check what is stored."""
    scripts = write_scripts(folder, args.bodies)
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {kind.name: [] for kind in KINDS} for name in args.targets
    }
    checks = {}
    with all_targets(folder, args.targets) as targets:
        for kind in KINDS:
            for number in range(
                0 if args.warm_up else 1, args.rounds + 1
            ):  # of round 0 the events count, not the times
                for target in targets.values():
                    seconds = args.seconds if number else args.warm_up
                    found = load(target, kind, scripts[kind.name], seconds, args.connections)
                    found["warm_up"] = not number
                    rounds[target.name][kind.name].append(found)
        for target in targets.values():
            if target.service:
                checks[target.name] = check(target, rounds[target.name], args.connections)
    settings = {"rounds": args.rounds, "seconds": args.seconds, "connections": args.connections}
    return {"settings": settings, "results": summarise(rounds), "checks": checks}


def load(target: Target, kind: Kind, script: Path, seconds: float, connections: int) -> dict[str, Any]:
    """One load of one server; for ours, also how long what was acknowledged took to be inserted afterwards."""
    used = target.cpu()
    found = wrk(target, script, seconds, connections)
    found["cpu_us"] = (target.cpu() - used) / max(1, found["requests"]) * 1e6
    found["rate"] = found["requests"] / found["seconds"]
    found["acknowledged"] = found["requests"] * kind.events
    found["rss"] = target.rss()
    started = time.monotonic()
    if service := target.service:
        found["pending"] = service.stats()["buffer_status"]["events_pending"]
        wait_until(lambda: not service.stats()["buffer_status"]["events_pending"], 120)
    found["drain_seconds"] = time.monotonic() - started
    return found


def check(target: Target, rounds: dict[str, list[dict[str, Any]]], connections: int) -> dict[str, int]:
    """Everything that was acknowledged is in ClickHouse, and no more than that and what was under way.

    wrk stops while each connection waits for an answer: those events are stored, but were not counted.
    """
    assert target.service
    acknowledged = sum(one["acknowledged"] for runs in rounds.values() for one in runs)
    under_way = sum(connections * kind.events * len(rounds[kind.name]) for kind in KINDS)
    stored = target.service.stats()["total_events"]
    if not acknowledged <= stored <= acknowledged + under_way:
        raise SystemExit(
            f"{target.name}: {acknowledged} events acknowledged, at most {under_way} more under way, {stored} stored"
        )
    return {"acknowledged": acknowledged, "under_way": under_way, "stored": stored}


def summarise(rounds: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """For each server and kind of load the medians, and the ratios within each round."""
    results: dict[str, Any] = {}
    for name, kinds in rounds.items():
        for kind, runs in kinds.items():
            timed = [one for one in runs if not one["warm_up"]]
            summary: dict[str, Any] = {
                key: median(one[key] for one in timed)
                for key in ("rate", "p50_ms", "p99_ms", "cpu_us", "drain_seconds")
            }
            summary["rss"] = max(one["rss"] for one in timed)
            summary["rates"] = [one["rate"] for one in timed]
            for base in ("peer", "bare"):
                if base in rounds:
                    bases = [one["rate"] for one in rounds[base][kind] if not one["warm_up"]]
                    ratios = [one["rate"] / other for one, other in zip(timed, bases, strict=True)]
                    summary[f"to_{base}"] = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
                    cpu = [one["cpu_us"] for one in rounds[base][kind] if not one["warm_up"]]
                    ratios = [other / one["cpu_us"] for one, other in zip(timed, cpu, strict=True)]
                    summary[f"by_cpu_to_{base}"] = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
            results.setdefault(name, {})[kind] = summary
    return results


def ratio(one: dict[str, Any], name: str, *, spread: bool = False) -> str:
    """A ratio for people."""
    if name not in one:
        return "–"
    found = one[name]
    return f"{found['median']:.2f}" + (f" ({found['min']:.2f}..{found['max']:.2f})" if spread else "")


def table(result: dict[str, Any]) -> str:
    """The results for people."""
    head = ["load", "server", "requests/s", "÷ peer (min..max)", "÷ bare", "CPU µs/request", "÷ peer by CPU (min..max)"]
    head += ["÷ bare by CPU", "p50, ms", "p99, ms", "RSS, MB"]
    rows = []
    for kind in KINDS:
        for name, kinds in result["results"].items():
            one = kinds[kind.name]
            rows.append([kind.name, LABELS[name], f"{one['rate']:,.0f}", ratio(one, "to_peer", spread=True)])
            rows[-1] += [ratio(one, "to_bare"), f"{one['cpu_us']:,.0f}", ratio(one, "by_cpu_to_peer", spread=True)]
            rows[-1] += [ratio(one, "by_cpu_to_bare"), f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}"]
            rows[-1] += [f"{one['rss'] / 1e6:.0f}"]
    return markdown(head, rows)


if __name__ == "__main__":
    main()
