"""The benchmarks run and say something sane; how fast anything is, is no test's matter."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.parse import parse_batch, parse_event
from tests.bench.corpus import EVENTS_PER_BATCH, EVENTS_PER_SESSION, batch_bodies, make_events, single_bodies
from tests.bench.hotspots import aggregate

ROOT = Path(__file__).parents[2]


def run(module: str, output: Path, *arguments: str) -> Any:
    """What a benchmark writes."""
    command = [sys.executable, "-m", f"tests.bench.{module}", "--output", str(output), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads(output.read_text())


def test_corpus_is_the_same_for_a_seed_valid_and_varied() -> None:
    assert single_bodies(300, 7) == single_bodies(300, 7) != single_bodies(300, 8)
    events = [parse_event(body) for body in single_bodies(4000, 7)]
    assert not any(event.event_id for event in events)
    assert {event.priority for event in events} == {"low", "medium", "high", "critical"}
    assert len({event.user_agent for event in events}) >= 30
    assert len({event.event_name for event in events}) > 100
    assert len({len(event.properties) for event in events}) > 100
    everything = make_events(20_000, 7)
    assert 0.7 < len(everything) / len({event["session_id"] for event in everything}) / EVENTS_PER_SESSION < 1.3
    assert all(len(parse_batch(body).events) == EVENTS_PER_BATCH for body in batch_bodies(3, 7))


def test_bench_loads_every_server_and_counts_what_is_stored(tmp_path: Path) -> None:
    result = run(
        "run", tmp_path / "bench.json", *["--rounds=1", "--seconds=1", "--warm-up=0", "--connections=4", "--bodies=100"]
    )
    assert set(result["results"]) == {"peer", "bare", "server", "embedded"}
    for kinds in result["results"].values():
        for one in kinds.values():
            assert one["rate"] > 0
            assert 0 < one["p50_ms"] <= one["p99_ms"]
            assert one["rss"] > 10e6
            assert one["to_peer"]["min"] <= one["to_peer"]["median"] <= one["to_peer"]["max"]
    assert result["results"]["peer"]["single"]["to_peer"]["median"] == 1
    assert set(result["checks"]) == {"server", "embedded"}
    for check in result["checks"].values():
        assert 0 < check["acknowledged"] <= check["stored"] <= check["acknowledged"] + check["under_way"]


def test_latency_is_measured_and_every_event_is_stored(tmp_path: Path) -> None:
    result = run("latency", tmp_path / "latency.json", "--seconds=1", "--connections=8")
    assert result["rate"] == result["peak"] / 2 > 0
    assert result["acknowledged"] > 20
    for name in ("post", "visible"):
        assert 0 < result[name]["p50"] <= result[name]["p99"] < 30


def test_an_outage_with_a_kill_in_the_middle_is_measured_and_every_event_is_stored(tmp_path: Path) -> None:
    result = run("outage", tmp_path / "outage.json", "--seconds=2", "--connections=8")
    outage, stored = result["outage"], result["stored"]
    assert 0 < outage["acknowledged"] <= stored["backlog"] <= outage["acknowledged"] + outage["under_way"]
    assert stored["ids"] == stored["rows"]
    assert outage["backlog_bytes"] > outage["acknowledged"] * 100
    assert 10e6 < outage["rss_first_third"] <= outage["rss_most"]
    assert 0 < result["restart"]["first_event_seconds"] <= result["restart"]["ready_seconds"]
    assert result["drain"]["live_acknowledged"] >= 100
    assert result["drain"]["looks"] >= 1


def test_stats_are_measured_at_each_size(tmp_path: Path) -> None:
    result = run("stats", tmp_path / "stats.json", "--rows=1000", "--seconds=0.1", "--rounds=1", "--events=1000")
    assert [(one["store"], one["route"], one["rows"]) for one in result["stats"]] == [
        (store, route, 1000) for store in ("server", "embedded") for route in ("/stats", "/loss")
    ]
    assert all(0 < one["p50"] <= one["p99"] for one in result["stats"])
    assert 0 < result["bytes_per_event"]["on disk"] < result["bytes_per_event"]["sent as JSON"]
    assert [(one["store"], one["rows"]) for one in result["properties"]] == [("server", 1000), ("embedded", 1000)]
    assert all(one["text"] > 0 and one["column"] > 0 for one in result["properties"])


def test_a_start_is_measured(tmp_path: Path) -> None:
    result = run("start", tmp_path / "start.json", "--rounds=1", "--stores", "server, 2 workers")
    assert [one["start"] for one in result] == ["first", "next"]
    assert all(0 < one["best"] <= one["seconds"] and one["cpu"] > 0 for one in result)


def test_look_ups_of_ids_are_measured(tmp_path: Path) -> None:
    [result] = run("ids", tmp_path / "ids.json", "--rounds=1", "--ids=30000")
    assert result["ids"] == 30_000
    assert result["random_ms"] > 0
    assert result["random ÷ ordered"] == pytest.approx(result["random_ms"] / result["ordered_ms"])


def test_a_profile_shares_the_cpu_of_each_thread_among_its_samples() -> None:
    raw = (
        "thread (1): MainThread;run (asyncio/base_events.py:1);add (service/pipeline/writer.py:90) 3\n"
        "thread (1): MainThread;run (asyncio/base_events.py:1) 1\n"
        "thread (2): spool_0;_worker (concurrent/futures/thread.py:81) 9\n"
        "thread (2): spool_0;append (service/spool/spool.py:146) 2\n"
    )
    profile = aggregate(raw, {"1": 80.0, "2": 10.0, "3": 5.0})
    assert profile.self_ == {
        "service/pipeline/writer.py add": 60,
        "asyncio/base_events.py": 20,
        "service/spool/spool.py append": 10,
    }
    assert profile.total["asyncio/base_events.py"] == 80
    assert profile.threads == {"MainThread": 80, "spool_0": 10, "other threads": 5}
    assert profile.samples == 6
