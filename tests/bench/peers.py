"""What the service is compared with, each a process of its own: ``python -m tests.bench.peers fastapi|bare PORT``.

- fastapi: the usual way to write such a service: FastAPI on uvicorn with uvloop and httptools, the same models,
  an in-memory list. It stores nothing, knows no tokens, and forgets its list now and then.
- bare: an aiohttp handler that reads the body and answers a constant: the most that the service's own HTTP
  library gives.
"""

import asyncio
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from schemas.events import Event, EventBatch
from tests.support.service import BATCH, EVENTS

FORGET_AT = 20_000


def serve_fastapi(port: int) -> None:
    """FastAPI on uvicorn, until stopped."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()
    taken: list[Event] = []

    def keep(events: list[Event]) -> None:
        if len(taken) > FORGET_AT:
            taken.clear()
        taken.extend(events)

    @app.post(EVENTS)
    async def track_event(event: Event) -> dict[str, Any]:
        keep([event])
        now = datetime.now(UTC).isoformat()
        return {"success": True, "event_id": str(uuid.uuid4()), "message": "Event accepted", "timestamp": now}

    @app.post(BATCH)
    async def track_batch(batch: EventBatch) -> dict[str, Any]:
        keep(batch.events)
        count = len(batch.events)
        return {
            "success": True,
            "events_received": count,
            "events_queued": count,
            "events_failed": 0,
            "message": "Batch accepted",
            "timestamp": datetime.now(UTC).isoformat(),
        }

    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", log_level="warning", access_log=False
    )


async def _bare(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b'{"success":true}', content_type="application/json")


async def serve_bare(port: int) -> None:
    """aiohttp and nothing else, until stopped; the server has the settings of the service's."""
    app = web.Application(client_max_size=4 * 2**20)
    app.router.add_post(EVENTS, _bare)
    app.router.add_post(BATCH, _bare)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, handler_cancellation=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=512).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "fastapi":
        serve_fastapi(port)
    else:
        asyncio.run(serve_bare(port))
