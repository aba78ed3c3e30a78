"""The sockets on which the service listens."""

import socket
from collections.abc import Sequence

from service.config import Settings, variable
from service.errors import StartError

BACKLOG = 512


def bind(settings: Settings) -> list[socket.socket]:
    """A socket for every address of the host, none of them listening yet. Raises StartError."""
    return _bind(settings, settings.port, shared=False)


def bind_shared(settings: Settings, count: int) -> list[list[socket.socket]]:
    """The sockets of so many workers, on one port: the kernel deals connections out among those that listen.

    Raises StartError.
    """
    # Others of this user could share the port too, and get a part of our connections: so first without.
    alone = bind(settings)
    port = port_of(alone)
    close(alone)
    return [bind_one_shared(settings, port) for _ in range(count)]


def bind_one_shared(settings: Settings, port: int) -> list[socket.socket]:
    """The sockets of one more worker. Raises StartError."""
    return _bind(settings, port, shared=True)


def port_of(sockets: Sequence[socket.socket]) -> int:
    """The port of them all."""
    return int(sockets[0].getsockname()[1])


def close(sockets: Sequence[socket.socket]) -> None:
    """Close them all."""
    for one in sockets:
        one.close()


def cannot_listen(settings: Settings, error: OSError) -> StartError:
    """Why there is no listening."""
    return StartError(
        f"can't listen on {settings.host} port {settings.port} ({error.strerror or error}):"
        f" stop what holds it, or set {variable('port')} or {variable('host')}"
    )


def _bind(settings: Settings, port: int, *, shared: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            one = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(one)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port or (port_of(sockets) if len(sockets) > 1 else 0), *address[2:]))
    except OSError as error:
        close(sockets)
        raise cannot_listen(settings, error) from None
    return sockets
