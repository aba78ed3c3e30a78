"""The application: which route is answered by which handler."""

from aiohttp import web

from schemas.routes import ROUTES
from service.api.activity import get_activity
from service.api.health import get_health, get_livez, get_readyz
from service.api.ingest import track_batch, track_beacon, track_event
from service.api.loss import get_loss
from service.api.metrics import get_metrics
from service.api.pipeline import get_pipeline
from service.api.refusals import get_refusals
from service.api.stats import get_stats
from service.api.web.dashboard import routes as dashboard_routes
from service.api.web.docs import routes as docs_routes
from service.api.web.tracker import routes as tracker_routes
from service.edge.body import leave_expect
from service.edge.context import CONTEXT, Context
from service.edge.middleware import error_middleware

HANDLERS = {
    handler.__name__: handler
    for handler in (
        *(track_event, track_batch, track_beacon),
        *(get_stats, get_activity, get_pipeline, get_refusals, get_loss),
        *(get_health, get_livez, get_readyz),
    )
}


def create_app(context: Context) -> web.Application:
    """The routes of the service, with what their handlers need."""
    settings = context.settings
    prefix = settings.path_prefix
    app = web.Application(middlewares=[error_middleware], client_max_size=settings.max_body_bytes)
    app[CONTEXT] = context
    for route in ROUTES:
        path, handler = route.under(prefix), HANDLERS[route.operation]
        if route.method == "POST":
            app.router.add_post(path, handler, expect_handler=leave_expect)
        else:
            app.router.add_get(path, handler)
        if context.cors and route.is_mounted:
            app.router.add_options(path, context.cors.preflight)
    app.router.add_get("/metrics", get_metrics)
    app.router.add_routes([*docs_routes(), *tracker_routes(), *dashboard_routes(prefix)])
    return app
