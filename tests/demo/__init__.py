"""A trading desk in the browser, as an example of a page that is tracked: ``make demo``; the tests drive it too."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("page")
SCRIPT = Path(__file__).parents[2] / "service" / "static" / "tracker.js"
#: Paths that the app shows by itself.
ROUTES = ("/", "/orders", "/account")


class _Handler(SimpleHTTPRequestHandler):
    """The files of the page, the tracker as a site would host it, and what the page is told of the service."""

    settings: dict[str, Any]
    pages: dict[str, str]

    def translate_path(self, path: str) -> str:
        bare = path.partition("?")[0]
        if bare == "/tracker.js":
            return str(SCRIPT)
        return super().translate_path("/index.html" if bare in ROUTES else path)

    def do_GET(self) -> None:
        if self.path in self.pages:
            self._send("text/html", self.pages[self.path])
        elif self.path == "/settings.js":
            self._send("text/javascript", f"const settings = {json.dumps(self.settings)};")
        else:
            super().do_GET()

    def _send(self, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Demo:
    """A server of the page, on a port of its own: to the service it is another origin.

    ``settings`` is what the page is told, ``pages`` are further pages by their paths; change them at will.
    """

    def __init__(self, settings: dict[str, Any], port: int = 0) -> None:
        self.settings = settings
        self.pages: dict[str, str] = {}
        shared = {"settings": self.settings, "pages": self.pages}
        handler = partial(type("Handler", (_Handler,), shared), directory=str(PAGE))
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
