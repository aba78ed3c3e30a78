"""What requests need of the service: one object under one key, made where the parts are wired."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from service.config import Settings
from service.edge.access_tokens import AccessToken
from service.edge.cors import Cors
from service.pipeline.flusher import Flusher
from service.pipeline.intake import Intake
from service.pipeline.writer import BatchWriter
from service.store.store import Store
from service.telemetry.load import ConnectionLoad
from service.telemetry.metrics import Metrics
from service.telemetry.peers import Peers
from service.telemetry.refusals import Refusals
from service.telemetry.single_flight import CachedFlight, SingleFlight


@dataclass(frozen=True)
class Context:
    """The parts of the service, as handlers and connections see them."""

    settings: Settings
    #: Access tokens by hash; and those for scrapes of /metrics, empty if scrapes need none.
    tokens: Mapping[bytes, AccessToken]
    scrape_tokens: Mapping[bytes, AccessToken]
    cors: Cors
    load: ConnectionLoad
    #: Set when the service stops: readiness is off, and answers close their connections.
    leaving: asyncio.Event
    metrics: Metrics
    refusals: Refusals
    intake: Intake
    writer: BatchWriter
    flusher: Flusher
    store: Store
    #: Answers questions for all workers together.
    peers: Peers
    #: The query of /stats, shared by all who ask at the same time; and the answers of /activity by their span.
    counts: SingleFlight[Any]
    activities: Mapping[str, CachedFlight[bytes]]


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
