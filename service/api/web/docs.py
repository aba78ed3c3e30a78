"""``/openapi.json``, and an interactive reference that needs no network."""

from pathlib import Path

from aiohttp import web
from swagger_ui_bundle import swagger_ui_path

from service import __version__
from service.api.web.assets import File
from service.edge.context import CONTEXT
from service.edge.responses import json_response

#: Only our own files run, and they may call only this service. ``data:`` is for Swagger UI's icons.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Analytics API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout"
});
"""
_ASSETS = Path(swagger_ui_path)


_FILES = (("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript"))
_HEADERS = {"Cache-Control": "max-age=3600"}
_PAGE_HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}


def routes() -> list[web.RouteDef]:
    """The routes of the documentation."""
    return [
        web.get("/", _to_docs),
        web.get("/openapi.json", _openapi),
        web.get("/docs", File(_PAGE.encode, "text/html", _PAGE_HEADERS).answer),
        web.get("/docs/start.js", File(_START.encode, "text/javascript", _HEADERS).answer),
        *(
            web.get(f"/docs/{name}", File((_ASSETS / name).read_bytes, content_type, _HEADERS).answer)
            for name, content_type in _FILES
        ),
    ]


async def _to_docs(request: web.Request) -> web.Response:
    raise web.HTTPFound("/docs")


async def _openapi(request: web.Request) -> web.Response:
    from schemas.openapi import document  # here: the models of answers would cost each start 20 ms

    return json_response(document(__version__, request.app[CONTEXT].settings.path_prefix))
