"""The check at the end.

Every acknowledged event must be in the table once, or in the quarantine; no refused one, each one of unknown outcome at
most once, and nothing else. An event that was sent several times is acknowledged if one of the answers was 200.

A view behind the table has rows of the table only, each once as long as ClickHouse lost no power (it never syncs its
memory of tokens). The statistics say what the table says. The metrics add up, and say what the clients were told: of
the last life of the service, since they begin at zero with it, unless a worker was killed, with its counts.
"""

from collections import Counter
from dataclasses import dataclass

from tests.chaos.world import OTHER, POISON, World
from tests.support.clickhouse import query
from tests.support.load import check_set
from tests.support.metrics import scrape


@dataclass
class Told:
    """What the clients know, each event by its name."""

    acknowledged: set[str]
    refused: set[str]
    unknown: set[str]
    by_port: Counter[tuple[int, str]]

    def __post_init__(self) -> None:
        self.unknown -= self.acknowledged
        self.refused -= self.acknowledged | self.unknown


def check(world: World, told: Told) -> str:
    """The counts; AssertionError tells what is wrong. All must have settled."""
    stored, aside = _names(world, "events"), world.quarantined()
    check_set(told.acknowledged, told.refused, told.unknown, stored + aside)
    assert all(name.startswith(POISON) for name in aside), aside[:5]
    seen = _check_view(world, stored)
    metrics = _check_metrics(world, told.by_port)
    total, rows = world.service.stats()["total_events"], query(world.dsn, "SELECT count() FROM events")
    assert rows == [[total]], (rows, total)
    return (
        f"{len(told.acknowledged)} acknowledged, {len(told.refused)} refused, {len(told.unknown)} unknown"
        f" ({len(told.unknown & {*stored, *aside})} of them stored), {len(stored)} stored, {len(aside)} quarantined;"
        f" lost 0, twice 0; a view has {seen}; metrics of the last life {metrics}"
    )


def _names(world: World, table: str) -> list[str]:
    rows = query(world.dsn, f"SELECT session_id FROM {table} WHERE source != '{OTHER}'")
    return [name for (name,) in rows]


def _check_view(world: World, stored: list[str]) -> str:
    seen = Counter(_names(world, "chaos_seen"))
    strange = seen.keys() - set(stored)
    assert not strange, f"{len(strange)} events only in the view: {sorted(strange)[:5]}"
    twice = sorted(name for name, count in seen.items() if count > 1)
    power_cuts = world.faults["power_cut"] + world.faults["power_cut_of_clickhouse"]
    assert power_cuts or not twice, f"{len(twice)} events twice in a view: {twice[:5]}"
    return f"{len(seen)}, {len(twice)} twice"


def _check_metrics(world: World, by_port: Counter[tuple[int, str]]) -> dict[str, int]:
    service = world.service
    told, unknown = by_port[service.port, "acknowledged"], by_port[service.port, "unknown"]
    found = {name: int(count) for name, count in scrape(service).balance().items()}
    assert world.counts_lost or told <= found["accepted"] <= told + unknown, (found, told, unknown)
    assert found["lost"] == found["pending"] == 0, found
    shown = ("accepted", "recovered", "flushed", "duplicate", "quarantined")
    return {name: found[name] for name in shown} | {"told": told, "unknown": unknown}
