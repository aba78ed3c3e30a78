"""Our TCP proxy in front of the real ClickHouse: it refuses, cuts, delays, or answers in its place.

Each INSERT that comes by meets the next of the ``fates``, and passes when none is left:

    cut-body            half of the request goes on, then both sides are cut
    cut-answer          ClickHouse has answered, and nobody hears it
    cut-answer, refuse  the same, and from then on the proxy refuses
    hold-answer         ClickHouse has answered, and the answer is kept until the client gives up
    late-body           half of the request goes on; the other half only after a later INSERT has been answered,
                        though the client has given up by then
    answer ...          ClickHouse has answered, and the client gets these bytes instead
    instead ...         the client gets these bytes, and ClickHouse nothing
    hang                the client gets nothing until it gives up, and ClickHouse nothing

An INSERT in whose body ``poison`` is meets ``poison_fate`` instead, each time: "cut-body", "hang" or "instead ...".
"""

import re
import socket
import threading
from collections import deque

from tests.support.clickhouse import free_port

_INSERT = b"insert_deduplication_token="
_STATISTICS = b"total_part"


class Proxy:
    """Listens on ``port`` from ``start`` to ``close``; ``refuse`` and ``open`` in between as often as needed.

    ``late`` is how many seconds a late body waits at most; then its other half does not come.
    """

    def __init__(self, target: int, late: float = 30) -> None:
        self.port = free_port()
        self.fates: deque[str] = deque()
        self.poison: bytes | None = None
        self.poison_fate = "cut-body"
        #: What each INSERT met; "gone" if its client left before.
        self.met: list[str] = []
        #: How many queries for the statistics have come by.
        self.statistics = 0
        #: How many late bodies have been answered.
        self.late = 0
        self._target = target
        self._late_max = late
        self._listener: socket.socket | None = None
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._answered = threading.Event()

    def dsn(self, dsn: str) -> str:
        """The same DSN by way of this proxy."""
        return dsn.replace(f":{self._target}/", f":{self.port}/")

    def open(self) -> "Proxy":
        """Let everyone through."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def refuse(self) -> None:
        """Refuse new connections, and cut the existing ones."""
        listener, self._listener = self._listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    close = refuse

    @property
    def refuses(self) -> bool:
        """Whether ``refuse`` is in force."""
        return self._listener is None

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for side in pair:
                _cut(side)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                server.settimeout(None)
                for side in (client, server):  # what comes goes on at once
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                _cut(client)
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        pair = (client, server)
        with self._lock:
            self._pairs.add(pair)
        fate = [""]  # of the INSERT under way; empty for other requests
        back = threading.Thread(target=self._answers, args=(client, server, fate), daemon=True)
        back.start()
        try:
            while data := client.recv(1 << 16):
                self.statistics += _STATISTICS in data
                if _INSERT in data:
                    if self.poison:
                        data = _whole(client, data)
                    poisoned = self.poison and self.poison in data
                    fate[0] = self.poison_fate if poisoned else self.fates.popleft() if self.fates else "pass"
                    self.met.append(fate[0])
                if fate[0] in ("cut-body", "late-body"):
                    self._spoil(client, server, fate[0], data)
                elif fate[0] == "hang":
                    while client.recv(1 << 16):
                        pass
                    break
                elif fate[0].startswith("instead "):
                    client.sendall(fate[0].removeprefix("instead ").encode())
                    break
                else:
                    server.sendall(data)
        except OSError:
            pass
        if fate[0] != "late-body":
            _cut(server)
        back.join()
        with self._lock:
            self._pairs.discard(pair)
        client.close()
        server.close()

    def _spoil(self, client: socket.socket, server: socket.socket, fate: str, data: bytes) -> None:
        whole = _whole(client, data)
        if not whole:  # it has given up before it had sent all of it
            self.met[self.met.index(fate)] = "gone"
            return
        half = (whole.index(b"\r\n\r\n") + 4 + len(whole)) // 2
        server.sendall(whole[:half])
        if fate == "cut-body":
            _cut(client)
            _cut(server)
            return
        self._answered.clear()
        if self._answered.wait(self._late_max):
            server.sendall(whole[half:])

    def _answers(self, client: socket.socket, server: socket.socket, fate: list[str]) -> None:
        try:
            while data := server.recv(1 << 16):
                if fate[0] == "hold-answer":
                    while client.recv(1 << 16):
                        pass  # until it gives up
                    break
                if fate[0] == "cut-answer, refuse":
                    self.refuse()
                    break
                if fate[0].startswith("answer "):
                    client.sendall(fate[0].removeprefix("answer ").encode())
                    break
                if fate[0] == "late-body":
                    self.late += 1
                    break
                if fate[0] == "cut-answer":
                    break
                passed, fate[0] = fate[0] == "pass", ""  # before the client hears of it, and sends the next INSERT
                client.sendall(data)
                if passed:
                    self._answered.set()
        except OSError:
            pass
        _cut(client)
        _cut(server)


def _whole(client: socket.socket, data: bytes) -> bytes:
    """The request that begins with ``data``; empty if its client leaves before it has sent all of it."""
    head = data.index(b"\r\n\r\n") + 4
    length = re.search(rb"\r\ncontent-length: *(\d+)", data[:head], re.IGNORECASE)
    # else the driver sends a chunked body
    while len(data) < head + int(length[1]) if length else not data.endswith(b"0\r\n\r\n"):
        more = client.recv(1 << 16)
        if not more:
            return b""
        data += more
    return data


def _cut(side: socket.socket) -> None:
    """End a connection, which also wakes whoever waits on it.

    Without a reset: ClickHouse 26.7.3 aborts, now and then, when one comes in the middle of an INSERT's body.
    """
    try:
        side.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
