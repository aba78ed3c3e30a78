"""The sockets on which the service listens."""

import errno
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from service.config import Settings, variable
from service.errors import StartError

BACKLOG = 512
#: The machine has no address of this family, or not this address.
_NO_SUCH_ADDRESS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class Address(NamedTuple):
    """Where to listen, and the settings that say so."""

    host: str
    port: int
    host_setting: str
    port_setting: str


class Sockets(NamedTuple):
    """A socket for every address of each host, none of them listening yet; those for SQL are none if it is off."""

    events: list[socket.socket]
    sql: list[socket.socket]

    @property
    def port(self) -> int:
        """Where events are taken."""
        return _port_of(self.events)

    @property
    def sql_port(self) -> int:
        """Where SQL is answered; 0 if nowhere."""
        return _port_of(self.sql) if self.sql else 0

    def close(self) -> None:
        """Close them all."""
        _close((*self.events, *self.sql))


def event_address(settings: Settings) -> Address:
    """Where events are taken."""
    return Address(settings.host, settings.port, variable("host"), variable("port"))


def sql_address(settings: Settings) -> Address | None:
    """Where SQL is answered, if anywhere."""
    if settings.sql_port is None:
        return None
    host = "sql_host" if settings.sql_host else "host"
    return Address(getattr(settings, host), settings.sql_port, variable(host), variable("sql_port"))


def bind(settings: Settings) -> Sockets:
    """The sockets of the service. Raises StartError."""
    return _bind_both(settings, settings.port, settings.sql_port or 0, shared=False)


def bind_shared(settings: Settings, count: int) -> list[Sockets]:
    """The sockets of so many workers, on the same ports: the kernel deals connections out among those that listen.

    Raises StartError.
    """
    # Another process of this user could share the port and get some of our connections: so first without sharing.
    alone = bind(settings)
    ports = alone.port, alone.sql_port
    alone.close()
    return [bind_one_shared(settings, *ports) for _ in range(count)]


def bind_one_shared(settings: Settings, port: int, sql_port: int) -> Sockets:
    """The sockets of one more worker. Raises StartError."""
    return _bind_both(settings, port, sql_port, shared=True)


def cannot_listen(address: Address, error: OSError) -> StartError:
    """The error if we can't listen."""
    if error.errno in _NO_SUCH_ADDRESS and ":" in address.host:
        return StartError(
            f"can't listen on {address.host} port {address.port} ({error.strerror or error}): this machine has"
            f" no such IPv6 address, set {address.host_setting} to another, or to 0.0.0.0 for IPv4 alone"
        )
    return StartError(
        f"can't listen on {address.host} port {address.port} ({error.strerror or error}):"
        f" stop what holds it, or set {address.port_setting} or {address.host_setting}"
    )


def _port_of(sockets: list[socket.socket]) -> int:
    return int(sockets[0].getsockname()[1])


def _close(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _bind_both(settings: Settings, port: int, sql_port: int, *, shared: bool) -> Sockets:
    events = _bind(event_address(settings)._replace(port=port), shared=shared)
    sql = sql_address(settings)
    try:
        return Sockets(events, _bind(sql._replace(port=sql_port), shared=shared) if sql else [])
    except StartError:
        _close(events)
        raise


def _bind(place: Address, *, shared: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for family, address in addresses:
            try:
                port = place.port or (_port_of(sockets) if sockets else 0)
                sockets.append(_bind_one(family, (address[0], port, *address[2:]), shared=shared))
            except OSError as error:
                # A name with addresses of both families, such as localhost, on a machine that has only one.
                if error.errno not in _NO_SUCH_ADDRESS or ((family, address) == addresses[-1] and not sockets):
                    raise
    except OSError as error:
        _close(sockets)
        raise cannot_listen(place, error) from None
    return sockets


def _bind_one(family: int, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # "every address" includes those of IPv4
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one
