"""What tests ask of the table and of the service's health after a fault."""

from tests.support import wait_until
from tests.support.clickhouse import query
from tests.support.load import Load
from tests.support.service import HEALTH, Answer, Service


def sessions(dsn: str) -> list[str]:
    """The name of each stored event."""
    return [name for (name,) in query(dsn, "SELECT session_id FROM events")]


def drained(service: Service, seconds: float = 30) -> None:
    """Wait until ClickHouse has confirmed all that was acknowledged."""

    def pending() -> bool:
        answer = service.get("/api/v1/analytics/stats")
        return answer.status == 200 and answer.json["buffer_status"]["events_pending"] == 0

    wait_until(pending, seconds, lambda: f"{service.get(HEALTH)} {service.log()[-3000:]}")


def check(service: Service, load: Load, dsn: str) -> None:
    """Every acknowledged event once, no refused one, and the statistics say what the table says."""
    drained(service)
    stored = sessions(dsn)
    load.check(stored)
    stats = service.stats()
    assert stats["total_events"] == len(stored)
    assert stats["buffer_status"]["events_flushed_total"] == len(stored)


def wait_for_health(service: Service, status: str, seconds: float = 15) -> dict[str, object]:
    """The health once it has this status."""

    def found() -> dict[str, object] | None:
        health: dict[str, object] = service.get(HEALTH).json
        return health if health["status"] == status else None

    return wait_until(found, seconds, lambda: f"{service.get(HEALTH)} {service.log()[-3000:]}")


def assert_refused(answer: Answer) -> None:
    """503, and when to come again."""
    assert answer.status == 503, answer
    assert int(answer.headers["Retry-After"]) >= 1
    assert "nothing of this request was kept" in answer.json["detail"]
