"""Settings: one frozen object, read once from the environment and ``.env``. Nothing else reads the environment.

Each field is one setting: its variable is ``ANALYTICS_`` and the name in capitals, its description is
the help text, and ``expects`` is for error messages. A test compares docs/settings.md with this.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from schemas.events import PREFIX as API_PREFIX
from service.errors import StartError
from service.origins import parse_origin

PREFIX = "ANALYTICS_"
PORT_MAX, WORKERS_MAX = 65_535, 64


def _setting(default: Any, description: str, expects: str, **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"expects": expects}, **bounds)


def _seconds(value: object) -> object:
    """``24h`` as seconds; a value without a unit stays as it is."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if isinstance(value, str) and value[-1:] in units and value[:-1].replace(".", "", 1).isdecimal():
        return float(value[:-1]) * units[value[-1]]
    return value


def _origins(value: object) -> object:
    """``https://a.example, https://b.example`` as a tuple, each in the form in which a browser sends it."""
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(parse_origin(one.strip()) for one in value.split(",") if one.strip()))


class Settings(BaseModel):
    """All that a deployment can set."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    host: str = _setting(
        "127.0.0.1",
        "Address to listen on; :: is every address, IPv6 and IPv4",
        "an address, for instance 127.0.0.1 or 0.0.0.0",
    )
    port: int = _setting(
        8080, "Port to listen on; 0 takes a free one", f"a whole number from 0 to {PORT_MAX}", ge=0, le=PORT_MAX
    )
    path_prefix: str = _setting(
        API_PREFIX, "Path under which events are posted and statistics read, in place of the usual one",
        "a path such as /api/v1/analytics: letters, digits, dashes and underscores between slashes, none at the end",
        pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$", max_length=100,
    )  # fmt: skip
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = _setting(
        (), "Origins whose pages may use the service from a browser, separated by commas",
        "origins as scheme://host or scheme://host:port, separated by commas; * is none",
    )  # fmt: skip
    workers: int = _setting(
        1, "Processes that take events on the port; more than 1 needs a ClickHouse server",
        f"a whole number from 1 to {WORKERS_MAX}", ge=1, le=WORKERS_MAX,
    )  # fmt: skip
    data_dir: Path = _setting(
        Path("data"), "Folder of the spool, the tokens and the embedded ClickHouse", "a folder that can be written"
    )
    clickhouse_dsn: SecretStr = _setting(
        SecretStr("chdb://"),
        "Where ClickHouse is: chdb:// embeds it in the data folder",
        "chdb:// or http(s)://user:password@host:port/database",
    )
    migrate: Literal["on", "off"] = _setting(
        "on", "Whether the start creates and upgrades the tables; off leaves that to `analytics migrate`", "on or off"
    )
    write_tokens: SecretStr = _setting(
        SecretStr(""), "Tokens that may post events, separated by commas", "tokens separated by commas"
    )
    read_tokens: SecretStr = _setting(
        SecretStr(""), "Tokens that may read statistics, separated by commas", "tokens separated by commas"
    )
    sql_port: int | None = _setting(
        None, "Port on which analysts ask SQL, by ClickHouse's HTTP protocol, read only; 0 takes a free one",
        "a whole number from 0 to 65535", ge=0, le=65535,
    )  # fmt: skip
    sql_host: str = _setting(
        "", "Address to answer SQL on; by default that of the events", "an address, for instance 127.0.0.1 or 0.0.0.0"
    )
    sql_user: str = _setting(
        "", "User of the ClickHouse server with which queries of analysts run; by default that of the DSN", "a name"
    )
    sql_password: SecretStr = _setting(SecretStr(""), "Password of that user", "a password")
    sql_max_seconds: float = _setting(
        300.0, "Seconds that a query of an analyst may take, until its answer is read",
        "a number of seconds, more than 0", gt=0, le=86_400,
    )  # fmt: skip
    sql_max_rows: int = _setting(
        0, "Rows that the answer to such a query may have; 0 is no limit", "a whole number, 0 or more", ge=0
    )
    sql_max_memory: int = _setting(
        2**30, "Bytes of memory that such a query may take", "a whole number of bytes, at least 16777216", ge=2**24
    )
    sql_max_queries: int = _setting(
        4, "Such queries that run at a time in each process; more wait for their turn",
        "a whole number from 1 to 100", ge=1, le=100,
    )  # fmt: skip
    metrics_token: SecretStr = _setting(
        SecretStr(""), "Token that a scrape of /metrics must carry; without one, anyone may", "a token"
    )
    tokens_file: Path | None = _setting(
        None, "File of named tokens made by `analytics token new`; by default tokens.json in the data folder", "a file"
    )
    batch_size: int = _setting(
        10_000, "Rows that make a batch: the size trigger", "a whole number from 1 to 1000000", ge=1, le=1_000_000
    )
    flush_interval: float = _setting(
        1.0, "Seconds after which a batch is inserted even if it is not full: the time trigger",
        "a number of seconds from 0.01 to 3600", ge=0.01, le=3600,
    )  # fmt: skip
    spool_max_bytes: int = _setting(
        10 * 2**30, "Bytes that events may take on disk while ClickHouse is away; beyond, posts get 503",
        "a whole number of bytes, at least 65536", ge=65536,
    )  # fmt: skip
    rate_limit: float = _setting(
        0.0, "Events that each access token may send a second; beyond, posts get 429; 0 is no limit",
        "a number of events a second, 0 or more", ge=0, le=1e9,
    )  # fmt: skip
    dedup_window: Annotated[float, BeforeValidator(_seconds)] = _setting(
        86_400.0, "How long after an event was stored a repeat with its event_id is recognised",
        "a number of seconds, or of s, m, h or d as in 24h, from 1 second to 7 days", ge=1, le=7 * 86_400,
    )  # fmt: skip
    max_body_bytes: int = _setting(
        4 * 2**20, "Largest body taken, in bytes, as sent and unpacked",
        "a whole number of bytes from 1024 to 268435456", ge=1024, le=256 * 2**20,
    )  # fmt: skip
    body_timeout: float = _setting(
        30.0, "Seconds within which a body must arrive", "a number of seconds, more than 0", gt=0, le=3600
    )
    max_inflight_bytes: int = _setting(
        64 * 2**20, "Bytes of all request bodies that are arriving or being written; beyond, posts get 503",
        "a whole number of bytes, at least 65536", ge=65536,
    )  # fmt: skip
    header_timeout: float = _setting(
        15.0, "Seconds within which a connection must send the head of a request, and take its answer",
        "a number of seconds, more than 0", gt=0, le=3600,
    )  # fmt: skip
    keepalive_timeout: float = _setting(
        75.0, "Seconds that a connection may be idle after an answer; set more than the proxy before it has",
        "a number of seconds, more than 0", gt=0, le=86_400,
    )  # fmt: skip
    max_connections: int = _setting(
        0, "Connections at a time; 0 takes as many as the limit of file descriptors allows",
        "a whole number, 0 or more", ge=0,
    )  # fmt: skip
    shutdown_timeout: float = _setting(
        20.0, "Seconds that a stop may take to answer requests and to insert what is pending; the rest stays on disk",
        "a number of seconds, 0 or more", ge=0, le=3600,
    )  # fmt: skip
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Least severe line that is logged", "debug, info, warning or error"
    )
    log_format: Literal["auto", "text", "json"] = _setting(
        "auto", "Form of the log: auto is text on a terminal, else JSON lines", "auto, text or json"
    )


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def load(**options: object) -> tuple[Settings, list[str]]:
    """The settings of this process, and a warning for each unknown variable.

    ``options`` are those of the command line, which win over the variables; None means not given.
    Raises StartError that names each variable whose value is not valid.
    """
    variables = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    variables |= os.environ
    known = {variable(field): field for field in Settings.model_fields}
    given: dict[str, object] = {field: variables[name] for name, field in known.items() if variables.get(name)}
    given |= {field: value for field, value in options.items() if value is not None}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        faults = [_describe(str(item["loc"][0]), given) for item in error.errors()]
        raise StartError("; ".join(faults)) from None
    # A misspelt variable would silently do nothing.
    strange = [name for name in sorted(variables) if name.startswith(PREFIX) and name not in known]
    return settings, [_unknown(name, known) for name in strange if not name.startswith(f"{PREFIX}TEST_")]


def _describe(field: str, given: dict[str, object]) -> str:
    info = Settings.model_fields[field]
    extra = info.json_schema_extra
    expects = extra["expects"] if isinstance(extra, dict) else ""
    return f"{variable(field)} is {given[field]!r}, but should be {expects}"


def _unknown(name: str, known: dict[str, str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"{name} is no setting" + (f"; did you mean {close[0]}?" if close else "")
