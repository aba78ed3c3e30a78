"""Origins of pages, in the one form in which a browser sends them."""

import re

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_origin(text: str) -> str:
    """``text`` as a browser sends it: in lower case, without the scheme's default port.

    Raises ValueError if it is not scheme://host[:port]: a path, a wildcard, or ``null``, which all pages without an
    origin share.
    """
    match = _ORIGIN.fullmatch(text.lower())
    port = int(match["port"] or 0) if match else 0
    if not match or port > 65535 or (match["port"] and not port):
        raise ValueError(f"{text!r} is not an origin: write scheme://host or scheme://host:port, without a path")
    shown = f":{port}" if port and port != _DEFAULT_PORTS.get(match["scheme"]) else ""
    return f"{match['scheme']}://{match['host']}{shown}"
