"""kill -9 between any two steps: strace kills the service at the n-th call of one kind, under load.

fdatasync ends a group, fsync makes a new segment, rename seals one or counts a flushed one, unlink deletes
one that ClickHouse has confirmed. Whatever the moment: each acknowledged event is stored once, no other twice.
"""

from collections.abc import Callable

import pytest

from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.load import Load
from tests.support.service import Service
from tests.support.strace import injection

MOMENTS = [
    *(("fdatasync", number) for number in (1, 2, 9)),
    *(("fsync", number) for number in (2, 3, 4, 5, 8)),
    *(("rename", number) for number in (1, 2, 3, 4, 7)),
    *(("unlink", number) for number in (3, 4, 7)),
]


@pytest.mark.parametrize(("call", "number"), MOMENTS)
def test_killed_at_any_step_loses_nothing_and_doubles_nothing(
    make_service: Callable[..., Service], server_dsn: str, call: str, number: int
) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=0.05, ANALYTICS_BATCH_SIZE=40)
    service.start(prefix=injection(call, number, "signal=KILL"))
    with Load(service) as load:
        wait_until(lambda: service.process.poll() is not None, 15, lambda: f"never came to {call} {number}")
    service.start()
    wait_until(lambda: service.stats()["buffer_status"]["events_pending"] == 0)
    stored = [name for (name,) in query(server_dsn, "SELECT session_id FROM events")]
    load.check(stored)
    status = service.stats()
    assert status["total_events"] == len(stored)
    assert status["buffer_status"]["events_flushed_total"] == len(stored)


def test_killed_again_and_again_while_recovering_it_still_starts(
    make_service: Callable[..., Service], server_dsn: str
) -> None:
    service = make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=600).start()
    for number in range(20):
        assert service.post({"event_name": "e", "session_id": f"s{number}"}).status == 200
    service.kill()
    for call in ("ftruncate", "fsync", "rename", "unlink") * 2:
        service.start(wait=False, prefix=injection(call, 1, "signal=KILL"))
        assert service.process
        service.process.wait(30)
    service.start()
    service.wait_for_total(20)
