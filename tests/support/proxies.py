"""Real proxies before the service, each a process of its own on a free port."""

import os
import socket
import subprocess
from pathlib import Path

from tests.machine import find
from tests.support import wait_until
from tests.support.clickhouse import free_port

HAPROXY = """
global
    maxconn 200
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    retries 0
frontend all
    bind 127.0.0.1:{port}
    bind 127.0.0.1:{http2_port} proto h2
    default_backend service
backend service
    http-reuse {reuse}
    server one 127.0.0.1:{target}
"""
NGINX = """
{user}
daemon off;
pid {folder}/pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 200; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 20m;
    upstream service {{ server 127.0.0.1:{target}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{http2_port} http2;
        location / {{ proxy_pass http://service; proxy_next_upstream off; {more} }}
    }}
}}
"""
KEEPS = 'proxy_http_version 1.1; proxy_set_header Connection "";'
#: How each is called, and the part of its configuration that differs.
KINDS = {
    "haproxy, reuse always": ("haproxy", HAPROXY, {"reuse": "always"}),
    "haproxy, reuse aggressive": ("haproxy", HAPROXY, {"reuse": "aggressive"}),
    "nginx as it comes": ("nginx", NGINX, {"more": ""}),
    "nginx that keeps connections": ("nginx", NGINX, {"more": KEEPS}),
    "nginx that streams": ("nginx", NGINX, {"more": KEEPS + "proxy_request_buffering off;"}),
}


class FrontProxy:
    """One of ``KINDS``, before the port ``target``; it takes HTTP/1.1 on ``port`` and HTTP/2 on ``http2_port``."""

    def __init__(self, kind: str, folder: Path, target: int) -> None:
        name, template, more = KINDS[kind][0], KINDS[kind][1], dict(KINDS[kind][2])
        self.port, self.http2_port = free_port(), free_port()
        folder.mkdir()
        config = folder / "proxy.conf"
        more["user"] = "user root;" if os.geteuid() == 0 else ""  # else a worker may not enter the folder of a test
        ports = {"port": self.port, "http2_port": self.http2_port, "target": target}
        config.write_text(template.format(folder=folder, **ports, **more))
        option = ["-f"] if name == "haproxy" else ["-p", str(folder), "-c"]
        self.output = folder / "output.log"
        with self.output.open("wb") as output:
            self._process = subprocess.Popen([find(name), *option, str(config)], stdout=output, stderr=output)
        wait_until(self._listens, say=lambda: self.output.read_text())

    def _listens(self) -> bool:
        for port in (self.port, self.http2_port):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)):
                    return False
        return True

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
