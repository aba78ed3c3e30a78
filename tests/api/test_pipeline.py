"""The pipeline: pending, spool and latency are those of the running service, with ClickHouse and without."""

from collections.abc import Callable
from typing import Any

import pytest

from service.api.pipeline import merge_pipelines
from service.telemetry.peers import PeerAnswers
from tests.support import wait_until
from tests.support.proxy import Proxy
from tests.support.service import PIPELINE, WRITE, Service

pytestmark = pytest.mark.quick


def test_it_tells_what_is_pending_while_clickhouse_is_away_and_that_nothing_is_once_it_is_back(
    make_service: Callable[..., Service], server_dsn: str, proxy: Proxy
) -> None:
    service = make_service(proxy.dsn(server_dsn), ANALYTICS_SPOOL_MAX_BYTES=1_000_000).start()
    assert service.get(PIPELINE, token=None).status == 401
    assert service.get(PIPELINE, token=WRITE).status == 403
    at_first = service.get(PIPELINE).json
    assert at_first["acknowledged_to_visible"] == {
        "p50_seconds": None,
        "p99_seconds": None,
        "batches": 0,
        "window_seconds": 300.0,
    }
    assert (at_first["events_pending"], at_first["last_flush"], at_first["spool"]["max_bytes"]) == (0, None, 1_000_000)

    proxy.refuse()
    assert service.post_batch([{"event_name": "waits"}] * 5).status == 200
    waiting = wait_until(lambda: (one := service.get(PIPELINE).json)["oldest_pending_seconds"] > 0.3 and one)
    assert waiting["events_pending"] == 5
    assert waiting["spool"]["bytes"] > at_first["spool"]["bytes"]

    proxy.open()
    done = wait_until(lambda: (one := service.get(PIPELINE).json)["events_pending"] == 0 and one)
    assert done["oldest_pending_seconds"] == 0
    assert done["last_flush"] <= done["as_of"]
    latency = done["acknowledged_to_visible"]
    assert latency["batches"] == 1
    assert latency["p50_seconds"] == latency["p99_seconds"] >= 0.3


def test_several_workers_are_put_together() -> None:
    def own(**values: Any) -> dict[str, Any]:
        usual = {"oldest_pending_seconds": 0.0, "spool_bytes": 8, "spool_max_bytes": 100, "visible_after": []}
        return usual | values

    known = {
        0: own(oldest_pending_seconds=2.5, visible_after=[1.0, 2.0]),
        1: own(visible_after=[9.0]),
        2: own(),
    }
    assert merge_pipelines(PeerAnswers(0, known, {})) == {
        "oldest_pending_seconds": 2.5,
        "spool": {"bytes": 24, "max_bytes": 100},
        "acknowledged_to_visible": {"p50_seconds": 2.0, "p99_seconds": 9.0, "batches": 3, "window_seconds": 300.0},
    }
