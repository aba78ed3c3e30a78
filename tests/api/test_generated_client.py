"""A client that nobody here wrote: generated from ``/openapi.json``, it posts events and reads what became of them."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import wait_until
from tests.support.service import READ, Service

GENERATOR = Path(sys.executable).with_name("openapi-python-client")
PACKAGE = "analytics_client"


@pytest.fixture
def both_scopes(make_service: Callable[..., Service], server_dsn: str) -> Service:
    """A running service with one token that may write and read."""
    return make_service(server_dsn, ANALYTICS_WRITE_TOKENS=READ).start()


@pytest.fixture
def package(both_scopes: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The generated package, imported."""
    document, config = tmp_path / "openapi.json", tmp_path / "config.yaml"
    document.write_bytes(both_scopes.get("/openapi.json", token=None).body)
    config.write_text("post_hooks: []\n")
    generated = subprocess.run(
        [
            *(GENERATOR, "generate", "--path", document, "--config", config),
            *("--output-path", tmp_path / PACKAGE, "--meta", "none", "--overwrite", "--fail-on-warning"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert generated.returncode == 0, generated.stdout + generated.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(PACKAGE)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def _call(operation: str, client: Any, **arguments: Any) -> tuple[int, Any]:
    """Status and parsed answer of the operation with this id."""
    module = importlib.import_module(f"{PACKAGE}.api.analytics.{operation}")
    answer = module.sync_detailed(client=client, **arguments)
    return int(answer.status_code), answer.parsed


def test_generated_client_posts_events_and_sees_them_counted(package: ModuleType, both_scopes: Service) -> None:
    models = importlib.import_module(f"{PACKAGE}.models")
    properties = models.EventPropertiesType0.from_dict({"amount": 12.5, "currency": "EUR"})
    full = models.Event(
        event_name="order_placed",
        category=models.EventCategory.TRADING,
        priority=models.EventPriority.HIGH,
        properties=properties,
        timestamp=datetime.now(UTC),
        session_id="s-1",
        page_url="https://shop.example/cart",
    )
    batch = models.EventBatch(events=[models.Event(event_name="page_opened"), full], client_id="web")

    with package.AuthenticatedClient(f"http://127.0.0.1:{both_scopes.port}", READ) as client:
        status, ack = _call("track_event", client, body=full)
        assert (status, type(ack).__name__, ack.success) == (200, "EventAck", True)
        assert ack.event_id
        assert abs(ack.timestamp - datetime.now(UTC)).total_seconds() < 60

        status, ack = _call("track_batch", client, body=batch)
        assert (status, type(ack).__name__) == (200, "BatchAck")
        assert (ack.success, ack.events_received, ack.events_queued, ack.events_failed) == (True, 2, 2, 0)

        def counted() -> Any:
            status, stats = _call("get_stats", client)
            assert (status, type(stats).__name__) == (200, "Stats")
            return stats if stats.total_events == 3 and not stats.buffer_status.events_pending else None

        stats = wait_until(counted)
        assert stats.events_by_category.to_dict() == {"trading": 2, "user_action": 1}
        assert stats.buffer_status.events_flushed_total == 3
        assert isinstance(stats.buffer_status.last_flush, datetime)

        status, health = _call("get_health", client)
        assert (status, type(health).__name__, health.status) == (200, "Health", "ok")
        assert health.clickhouse.ok
        assert health.spool.ok


def test_generated_client_reads_refusals_as_models(package: ModuleType, both_scopes: Service) -> None:
    models = importlib.import_module(f"{PACKAGE}.models")
    events = [models.Event(event_name="fine"), models.Event(event_name="")]
    url = f"http://127.0.0.1:{both_scopes.port}"
    with package.AuthenticatedClient(url, READ) as client:
        status, refusal = _call("track_event", client, body=events[1])
        assert (status, type(refusal).__name__) == (422, "ValidationErrorBody")
        (fault,) = refusal.detail
        assert (fault.type_, fault.loc, fault.input_) == ("string_too_short", ["body", "event_name"], "")
        assert fault.ctx.to_dict() == {"min_length": 1}

        status, refusal = _call("track_batch", client, body=models.EventBatch(events))
        assert status == 422
        assert [fault.loc for fault in refusal.detail] == [["body", "events", 1, "event_name"]]

        status, ack = _call("track_batch", client, body=models.EventBatch(events), prefer="handling=lenient")
        assert (status, ack.events_queued, ack.events_failed) == (200, 1, 1)
        assert [fault.loc for fault in ack.errors] == [["body", "events", 1, "event_name"]]

    with package.AuthenticatedClient(url, "unknown") as stranger:
        status, refusal = _call("get_stats", stranger)
        assert (status, type(refusal).__name__) == (401, "ErrorBody")
