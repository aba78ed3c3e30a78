"""``/metrics``: for Prometheus, from counts in memory."""

from aiohttp import web

from service.config import Settings
from service.edge.access_tokens import AccessToken, digest
from service.edge.auth import authorize
from service.edge.context import CONTEXT
from service.telemetry.exposition import render
from service.telemetry.metrics import Metrics
from service.telemetry.peers import PeerAnswers, PeerQuery


def scrape_tokens(settings: Settings) -> dict[bytes, AccessToken]:
    """The access token that scrapes need, by its hash; empty if they need none."""
    token = settings.metrics_token.get_secret_value().strip()
    return {digest(token): AccessToken("metrics", frozenset({"read"}))} if token else {}


async def get_metrics(request: web.Request) -> web.Response:
    """All metrics of all workers, in the text format of Prometheus or in OpenMetrics, as the scraper asks."""
    context = request.app[CONTEXT]
    if context.scrape_tokens:
        authorize(request, "read", context.scrape_tokens)
    answers: PeerAnswers = await context.peers.ask("metrics")
    page, content_type = render(
        context.metrics.all,
        answers.known,
        request.headers.get("Accept", ""),
        name_workers=len(answers.known) + len(answers.silent) > 1,
    )
    headers = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=page, headers=headers)


def metrics_query(metrics: Metrics) -> PeerQuery:
    """The metrics of each worker. They are not merged: each series names its worker, see ``render``."""
    return PeerQuery(metrics.snapshot, lambda answers: answers)
