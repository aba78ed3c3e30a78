"""Bytes on a socket, as no HTTP library would send them."""

import socket
from collections.abc import Iterable
from pathlib import Path

from tests.support.service import EVENTS, WRITE, Service

BODY = b'{"event_name":"hello"}'


def head(*lines: str, method: str = "POST", path: str = EVENTS, version: str = "1.1", token: str = WRITE) -> bytes:
    """The head of a request with a host and a token, and these lines."""
    all_lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Authorization: Bearer {token}", *lines, "", ""]
    return "\r\n".join(all_lines).encode("latin-1")


def post(body: bytes = BODY, *lines: str) -> bytes:
    """A whole request that is good."""
    return head(f"Content-Length: {len(body)}", *lines) + body


def connect(service: Service, seconds: float = 10) -> socket.socket:
    """A connection; what it waits for longer than ``seconds`` is a TimeoutError."""
    return socket.create_connection(("127.0.0.1", service.port), timeout=seconds)


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the service closes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionError:  # a reset is a close too
        pass
    return received


def exchange(service: Service, parts: Iterable[bytes], seconds: float = 10) -> bytes:
    """Send the parts, and read until the service closes."""
    with connect(service, seconds) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except ConnectionError:  # refused before we were done
            pass
        return read_to_end(connection)


def statuses(received: bytes) -> list[int]:
    """The status of each answer in the bytes."""
    lines = received.replace(b"}HTTP/", b"}\r\nHTTP/").split(b"\r\n")
    return [int(line.split()[1]) for line in lines if line.startswith(b"HTTP/1.")]


def resident_bytes(service: Service) -> int:
    """The memory that the process takes."""
    assert service.process
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages * 4096


def open_files(service: Service) -> int:
    """How many file descriptors the process has."""
    assert service.process
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))
