"""``/dashboard``: a page for people who watch. It loads nothing from elsewhere.

Anyone may load the page: nothing in it is secret. It asks for the figures itself, with the access token that the user
gives it.
"""

from html import escape

from aiohttp import web

from service.api.web.assets import STATIC, File
from service.api.web.docs import CONTENT_SECURITY_POLICY

#: A browser checks its copy each time, so that page and scripts are of one version.
_HEADERS = {"Cache-Control": "no-cache"}
_PAGE_HEADERS = _HEADERS | {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Referrer-Policy": "no-referrer"}
_TYPES = {".css": "text/css", ".js": "text/javascript"}
_FOLDERS = (STATIC / "dashboard", STATIC / "vendor")


def routes(prefix: str) -> list[web.RouteDef]:
    """The routes of the page and its files. The page finds the routes for reading under ``prefix``."""

    def page() -> bytes:
        return (STATIC / "dashboard" / "index.html").read_bytes().replace(b"{prefix}", escape(prefix).encode())

    files = [path for folder in _FOLDERS for path in sorted(folder.iterdir()) if path.suffix in _TYPES]
    return [
        web.get("/dashboard", File(page, "text/html", _PAGE_HEADERS).answer),
        *(
            web.get(f"/dashboard/{path.name}", File(path.read_bytes, _TYPES[path.suffix], _HEADERS).answer)
            for path in files
        ),
    ]
