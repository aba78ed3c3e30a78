"""What the connections of the fast path share: how heads are read, where events go, and how answers are written."""

import asyncio
import time
from typing import NamedTuple

from service.edge.context import Context
from service.edge.request_head import Head, Heads
from service.edge.responses import answer_bytes, json_body, request_id_of
from service.errors import RequestError
from service.pipeline.intake import AT_ONCE_MAX_BYTES, Accepted, Intake
from service.telemetry.metrics import Metrics, Requests
from service.telemetry.refusals import Refusals, partly


class Route(NamedTuple):
    """A route of events, and the counts of its requests."""

    path: str
    requests: Requests


class FastPathContext(NamedTuple):
    """The parts of the service that the fast path needs. ``leaving`` is set when the service stops."""

    heads: Heads
    intake: Intake
    metrics: Metrics
    refusals: Refusals
    single: Route
    batch: Route
    leaving: asyncio.Event
    max_body_bytes: int
    body_timeout: float

    def accept(self, head: Head, body: bytes) -> Accepted:
        """The rows of the request, and its answer. Raises Invalid, RequestError."""
        self.intake.check_rate(head.source)
        if head.single:
            return self.intake.event(head.source, body, head.key)
        return self.intake.batch(head.source, body, head.key, lenient=head.lenient)

    def answer(self, head: Head, what: Accepted | RequestError, begun_at: float, *, closes: bool) -> bytes:
        """The answer as it is written, counted as given now."""
        refused: str | None = None
        if isinstance(what, Accepted):
            status, body, headers = 200, json_body(what.answer), what.headers
            if what.refused:
                self.metrics.events_not_taken(what.refused)
                refused = partly(what.refused)
        else:
            status, body, headers = what.status, json_body({"detail": what.detail}), what.headers
            self.metrics.refused(type(what))
            refused = str(what.detail)
        if head.headers:
            headers = {**headers, **head.headers}
        if closes:
            headers = {**headers, "Connection": "close"}
        route = self.single if head.single else self.batch
        if refused is not None:
            self.refusals.add("POST", route.path, status, refused, head.source)
        route.requests.observe(status, time.perf_counter() - begun_at)
        return answer_bytes(body, head.request_id or request_id_of(None), status, headers)


def fast_path_context(context: Context) -> FastPathContext:
    """What the fast path needs of the service."""
    settings, metrics = context.settings, context.metrics
    single, batch = settings.path_prefix, f"{settings.path_prefix}/batch"
    return FastPathContext(
        Heads({single: True, batch: False}, context.tokens, context.cors),
        context.intake,
        metrics,
        context.refusals,
        Route(single, metrics.requests("POST", single)),
        Route(batch, metrics.requests("POST", batch)),
        context.leaving,
        min(settings.max_body_bytes, AT_ONCE_MAX_BYTES),
        settings.body_timeout,
    )
