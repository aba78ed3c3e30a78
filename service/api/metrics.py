"""``/metrics``: for Prometheus, from what is counted already."""

from collections.abc import Mapping

from aiohttp import web

from service.api.peers import STATES, Kind, States
from service.config import Settings
from service.edge.access_tokens import Token, digest
from service.edge.auth import authorize
from service.telemetry.exposition import render
from service.telemetry.metrics import Metrics, Snapshot

METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
#: The access token of scrapes, by its hash; empty if they need none.
TOKENS: web.AppKey[Mapping[bytes, Token]] = web.AppKey("metrics_tokens", Mapping)


def scrape_tokens(settings: Settings) -> dict[bytes, Token]:
    """What ``TOKENS`` is by these settings."""
    token = settings.metrics_token.get_secret_value().strip()
    return {digest(token): Token("metrics", frozenset({"read"}))} if token else {}


async def get_metrics(request: web.Request) -> web.Response:
    """All metrics of all workers, in the text format of Prometheus or in OpenMetrics, as the scraper asks."""
    if tokens := request.app[TOKENS]:
        authorize(request, "read", tokens)
    states: States = await request.app[STATES].merged("metrics")
    page, content_type = render(
        request.app[METRICS].all,
        states.known,
        request.headers.get("Accept", ""),
        name_workers=len(states.known) + len(states.silent) > 1,
    )
    headers = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=page, headers=headers)


def _own_metrics(app: web.Application) -> Snapshot:
    return app[METRICS].snapshot()


def _merge_metrics(states: States) -> States:
    return states  # each series tells whose it is: see ``render``


METRICS_OF_ALL = Kind(_own_metrics, _merge_metrics)
