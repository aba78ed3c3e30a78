"""What a start prints once it takes events: where it listens, what it uses, and a command to try."""

from collections.abc import Mapping
from pathlib import Path

from service import __version__
from service.config import Settings
from service.edge.access_tokens import Scope
from service.telemetry import logs

_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # an address to paste in place of "every address"


def greet(settings: Settings, port: int, sql_port: int, *, data: Path, store: str, made: Mapping[Scope, str]) -> None:
    """Print it. ``made`` are the access tokens that were just made, by scope."""
    url = _url(settings.host, port)
    events = f"{url}{settings.path_prefix}"
    token = made.get("write", "$TOKEN")
    lines = [
        f"Analytics {__version__} takes events at {url}",
        f"  data       {logs.escaped(str(data))}",
        f"  ClickHouse {logs.escaped(store)}",
        *([f"  workers    {settings.workers}"] if settings.workers > 1 else []),
        f"  reference  {url}/docs",
        f"  dashboard  {url}/dashboard",
        *([f"  SQL        {_url(settings.sql_host or settings.host, sql_port)}"] if sql_port else []),
        "Send an event:",
        f"  curl {events} -H 'Authorization: Bearer {token}' -d '{{\"event_name\":\"hello\"}}'"
        if made
        else f'  curl {events} -H "Authorization: Bearer $TOKEN" -d \'{{"event_name":"hello"}}\'',
    ]
    logs.say("\n".join(lines))


def _url(host: str, port: int) -> str:
    return f"http://{_REACHABLE.get(host, f'[{host}]' if ':' in host else host)}:{port}"
