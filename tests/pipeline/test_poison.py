"""Batches that something between us and ClickHouse never lets through: they wait, and all others are stored."""

from collections.abc import Callable

import pytest

from tests.support import wait_until
from tests.support.checks import drained, wait_for_health
from tests.support.faults import IMPATIENT, backlog, events, wait_until_stored
from tests.support.metrics import scrape
from tests.support.proxy import Proxy
from tests.support.service import Service

Make = Callable[..., Service]
FATES = {
    "cut": "cut-body",
    "413": "instead HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n",
    "500": "instead HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "hang": "hang",
}


@pytest.mark.parametrize(("fate", "ids", "count"), [*((fate, "none", 1) for fate in FATES), ("413", "none", 12),
    ("hang", "none", 3), ("cut", "all", 1), ("413", "all", 2), ("hang", "all", 1)])  # fmt: skip
def test_batches_that_never_get_through_keep_nobody_else_waiting(
    make_service: Make, server_dsn: str, proxy: Proxy, fate: str, ids: str, count: int
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_FLUSH_INTERVAL=600, ANALYTICS_BATCH_SIZE=10)
    service.start(prefix=IMPATIENT)
    proxy.poison, proxy.poison_fate = b"never-through", FATES[fate]
    poison = {f"never-through-{number}" for number in range(10 * count)}
    for number in range(count):
        assert service.post_batch(events(*sorted(poison)[10 * number :][:10], ids=ids)).status == 200
    names = backlog(service, 12, ids)
    wait_until_stored(service, server_dsn, names, 45)
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == len(poison))
    assert scrape(service).get("analytics_oldest_pending_event_age_seconds") > 0.2
    assert "steps aside" in service.log()
    proxy.poison = None
    wait_until_stored(service, server_dsn, names | poison, 45)
    drained(service)
    assert wait_for_health(service, "ok")["clickhouse"]["ok"]
