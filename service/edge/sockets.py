"""The sockets on which the service listens."""

import errno
import socket
from collections.abc import Sequence
from typing import Any

from service.config import Settings, variable
from service.errors import StartError

BACKLOG = 512
#: The machine has no address of the family, or not this one.
_NO_SUCH_ADDRESS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


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
    if error.errno in _NO_SUCH_ADDRESS and ":" in settings.host:
        return StartError(
            f"can't listen on {settings.host} port {settings.port} ({error.strerror or error}):"
            f" this machine has no such IPv6 address, set {variable('host')} to another, or to 0.0.0.0 for IPv4 alone"
        )
    return StartError(
        f"can't listen on {settings.host} port {settings.port} ({error.strerror or error}):"
        f" stop what holds it, or set {variable('port')} or {variable('host')}"
    )


def _bind(settings: Settings, port: int, *, shared: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for family, address in addresses:
            try:
                place = address[0], port or (port_of(sockets) if sockets else 0), *address[2:]
                sockets.append(_bind_one(family, place, shared=shared))
            except OSError as error:
                # A name of both families, such as localhost, on a machine that has one of them.
                if error.errno not in _NO_SUCH_ADDRESS or ((family, address) == addresses[-1] and not sockets):
                    raise
    except OSError as error:
        close(sockets)
        raise cannot_listen(settings, error) from None
    return sockets


def _bind_one(family: int, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # "every address" is IPv4's too
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one
