"""ClickHouse away for long: memory stays flat, and a large backlog neither delays a start nor changes its order."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from schemas.parse import parse_batch
from schemas.payload import encode_header
from schemas.rows import CURRENT, make_rows
from service.spool.spool import Spool
from tests.support import wait_until
from tests.support.checks import drained
from tests.support.clickhouse import query
from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.service import Service

Make = Callable[..., Service]
#: Enough for tens of megabytes of backlog; `make bench-outage` takes twenty minutes.
LOAD_SECONDS = 20
SEGMENTS, FRAMES, FRAME_ROWS, TEXT = 24, 60, 100, 2000  # 300 MB


def resident(service: Service) -> int:
    """Kilobytes of memory that the service takes."""
    assert service.process
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def spool_bytes(service: Service) -> int:
    return sum(path.stat().st_size for path in (service.data / "spool").glob("*.sealed"))


@pytest.mark.timeout(240)
def test_memory_stays_flat_while_clickhouse_is_away_under_full_load(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_SHUTDOWN_TIMEOUT=0).start()
    proxy.refuse()
    memory: list[int] = []
    with Load(service, batch=100) as load:
        load.wait_for_more(20_000)  # what each part keeps is there by now
        before, end = spool_bytes(service), time.monotonic() + LOAD_SECONDS

        def sampled() -> bool:
            memory.append(resident(service))
            return time.monotonic() > end

        wait_until(sampled, LOAD_SECONDS + 10)
    grown = spool_bytes(service) - before
    third = len(memory) // 3
    first, last = median(memory[:third]), median(memory[-third:])
    print(f"{first} kB, {last} kB; the backlog grew by {grown // 1024} kB; {len(load.acknowledged)} events")
    assert last < first * 1.25, "memory grows"
    assert (last - first) * 1024 < grown / 4, "memory grows with the backlog"
    assert not load.refused | load.unknown
    assert service.stop() == 0
    kept = sum(int(path.name.split(".")[1]) for path in (service.data / "spool").glob("*.sealed"))
    assert kept == len(load.acknowledged)


@pytest.mark.timeout(240)
def test_a_start_with_a_large_backlog_serves_at_once_and_drains_the_oldest_first(
    make_service: Make, server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_BATCH_SIZE=1000)
    service.start()
    service.stop()
    spool = Spool(service.data / "spool", service.data / "quarantine", encode_header(CURRENT))
    for segment in range(SEGMENTS):
        for frame in range(FRAMES):
            name = json.dumps({"event_name": "backlog", "page_url": str(segment), "properties": {"t": "x" * TEXT}})
            batch = parse_batch(f'{{"events": [{",".join([name] * FRAME_ROWS)}]}}'.encode())
            rows = make_rows(batch, source=str(frame), received_at=1)
            spool.append(rows)
        assert spool.seal()
    total = SEGMENTS * FRAMES * FRAME_ROWS
    assert spool.size > 250 * 2**20

    began = time.monotonic()
    service.start()
    with Load(service, pause=0.02) as load:
        load.wait_for_more(1)
        assert time.monotonic() - began < 10, "a start reads no segment"
        assert service.stats()["buffer_status"]["events_pending"] > total / 2
        seen: set[int] = set()

        def all_in() -> bool:
            [[kinds, latest, live]] = query(
                server_dsn,
                "SELECT uniqExactIf(page_url, event_name = 'backlog'), maxIf(toInt32OrZero(page_url), event_name ="
                " 'backlog'), countIf(event_name = 'load') FROM events",
            )
            assert kinds == 0 or kinds == latest + 1, "a later segment came before an earlier one"
            assert kinds == SEGMENTS or not live, "live events came before the backlog"
            seen.add(kinds)
            return bool(kinds == SEGMENTS and live)

        wait_until(all_in, 120)
    assert len(seen) > 3, "seen on its way"
    drained(service, 60)
    assert not load.refused | load.unknown
    assert query(server_dsn, "SELECT count() FROM events WHERE event_name = 'backlog'") == [[total]]
    load.check(name for (name,) in query(server_dsn, "SELECT session_id FROM events WHERE event_name = 'load'"))
    assert resident(service) < 1_000_000
