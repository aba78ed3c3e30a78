"""What ``ANALYTICS_CLICKHOUSE_DSN`` means.

We read it ourselves: the driver ignores the scheme (it would send an https password in plain text) and
takes any option for one of its own.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from service.errors import StartError

DEFAULT_DATABASE = "analytics"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_DSN_HELP = "it should be chdb://, chdb:///folder or http(s)://user:password@host:port/database"
#: The options that a DSN may have after a question mark, as the driver names them.
_DSN_OPTIONS = frozenset({"verify", "ca_cert", "client_cert", "client_cert_key", "compress"})


class Target(NamedTuple):
    """Where a DSN points: a folder to embed ClickHouse in, or the driver's arguments for a server."""

    database: str
    folder: Path | None
    server: dict[str, Any]
    shown: str  # for people: without the password

    @property
    def embedded(self) -> bool:
        return self.folder is not None


def parse_dsn(dsn: str, default_folder: Path) -> Target:
    """What ``ANALYTICS_CLICKHOUSE_DSN`` means. Raises StartError, and never repeats a password."""
    try:
        parts = urlsplit(dsn)
        port = parts.port
    except ValueError:
        raise _bad_dsn("it can't be read") from None
    if parts.fragment or dsn.endswith("#"):
        raise _bad_dsn("it has a #, which is written %23")
    if parts.scheme == "chdb":
        if parts.netloc or parts.query:
            raise _bad_dsn("an embedded ClickHouse has a folder and nothing else")
        folder = Path(unquote(parts.path)) if parts.path.strip("/") else default_folder
        if "?" in str(folder):  # the engine would take what follows for options, and make another folder
            raise StartError(
                f"the embedded ClickHouse can't have a folder with a question mark in its path, as {folder}:"
                " set ANALYTICS_DATA_DIR or ANALYTICS_CLICKHOUSE_DSN to another one, or use a ClickHouse server"
            )
        return Target(DEFAULT_DATABASE, folder, {}, f"embedded in {folder}")
    if parts.scheme not in ("http", "https"):
        raise _bad_dsn(f"the scheme {parts.scheme!r} is not known" if parts.scheme else "it has no scheme")
    if not parts.hostname:
        raise _bad_dsn("it has no host")
    database = unquote(parts.path.strip("/")) or DEFAULT_DATABASE
    if not _IDENTIFIER.fullmatch(database):
        raise _bad_dsn(f"{database!r} is not a valid name for a database")
    extra = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(extra.keys() - _DSN_OPTIONS):
        raise _bad_dsn(f"the option {unknown[0]!r} is not one of {', '.join(sorted(_DSN_OPTIONS))}")
    secure = parts.scheme == "https"
    server = {
        "interface": parts.scheme,
        "host": parts.hostname,
        "port": port or (8443 if secure else 8123),
        "username": unquote(parts.username or "default"),
        "password": unquote(parts.password or ""),
        "compress": False,  # CPU costs more than the network between a service and its database
        **extra,
    }
    return Target(database, None, server, f"{parts.scheme}://{parts.hostname}:{server['port']}/{database}")


def _bad_dsn(reason: str) -> StartError:
    return StartError(f"ANALYTICS_CLICKHOUSE_DSN is malformed: {reason}; {_DSN_HELP}")
