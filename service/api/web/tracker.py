"""``/tracker.js``: what web pages load to send events. Built from ``tracker/``, where its tests are."""

from aiohttp import web

from service.api.web.assets import STATIC, File

_HEADERS = {
    "Cache-Control": "public, max-age=600",  # a fix reaches pages within ten minutes
    # It is not secret: a page may check it (integrity), import it, and load it under COEP.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


def routes() -> list[web.RouteDef]:
    """The route of the script."""
    return [web.get("/tracker.js", File((STATIC / "tracker.js").read_bytes, "text/javascript", _HEADERS).answer)]
