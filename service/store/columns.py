"""Columns out of ``properties``: real columns of the table that ClickHouse fills with every insert, for analysts.

An INSERT of the service names its columns and knows nothing of these, so they may come and go while it runs. A column
has a default, which ClickHouse works out: at the INSERT for new rows; for rows from before when they are read, until
``fill_column`` or a merge writes it down. It never fails, whatever a client sends: a row is not refused for it.
"""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

from schemas.events import Event, EventBatch
from schemas.rows import COLUMNS, CORRECTED_TIMESTAMP, SEGMENT
from schemas.statements import statement
from service.errors import StartError
from service.store.migrations import Database
from service.store.settings import TABLE

#: In the comment of each column of ours: it tells them from the columns of others, and which property they hold.
_COMMENT = re.compile(r"Property (?P<path>.+) of properties; .+ \(analytics columns\)", re.DOTALL)
_OURS = frozenset(
    [
        *(column.name for column in (*COLUMNS, CORRECTED_TIMESTAMP, SEGMENT)),
        *Event.model_fields,
        *EventBatch.model_fields,
    ]
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_TYPE = re.compile(
    r"(?P<low>LowCardinality\()?(?P<null>Nullable\()?(?P<base>(?P<kind>String|Bool|UUID|Date32|U?Int(?:8|16|32|64)|Float(?:32|64)"
    r"|Decimal\((?P<precision>\d{1,2}),(?P<scale>\d{1,2})\)|DateTime64\((?P<digits>[0-9])(?:,'UTC')?\)))(?P<ends>\)*)"
)
TYPES_HELP = (
    "String, Bool, Int8 to Int64, UInt8 to UInt64, Float32, Float64, Decimal(18, 8), Date32, DateTime64(3) and UUID,"
    " each also as Nullable(…), and LowCardinality(String)"
)
_STEP = re.compile(r"""\.([^.\[\]'"]+)|\['((?:[^'\\]|\\.)+)'\]|\["((?:[^"\\]|\\.)+)"\]""")
_NUMBER = "^-?[0-9]+(?:[.][0-9]+)?(?:[eE][-+]?[0-9]{1,3})?$"
_TIME = "^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}.*|[0-9]{9,10}(?:[.][0-9]+)?|[0-9]{13})$"


class PropertyColumn(NamedTuple):
    """A column out of properties. ``rows`` of the table's ``of`` have it written down; it takes ``bytes`` on disk."""

    name: str
    type: str
    path: str
    rows: int
    of: int
    bytes: int


class FillState(NamedTuple):
    """How far the writing down of a column is, in rows; ``problem`` is why ClickHouse does not get on, or empty."""

    done: int
    of: int
    problem: str = ""


async def list_columns(database: Database) -> list[PropertyColumn]:
    """Those that ``add_column`` has made. Raises StoreError."""
    found = []
    for name, kind, path in await _ours(database):
        [(rows, of, size)] = await database.query(statement("column_size"), {"name": name})
        found.append(PropertyColumn(name, kind, path, int(rows), int(of), int(size)))  # type: ignore[call-overload]
    return found


async def add_column(database: Database, name: str, kind: str, path: str | None = None) -> None:
    """Add the column of this name and type for a property. Raises StartError if that can't be, StoreError."""
    if not _NAME.fullmatch(name):
        raise StartError(f"{name!r} is no name for a column: a letter, then up to 62 letters, digits and underscores")
    if name.lower() in _OURS:
        raise StartError(f"{name} is the name of a column or field of the service: choose another, and give --path")
    steps = path_steps(name if path is None else path)
    declared, default = column_default(kind, steps)
    if name in {there for there, *_ in await _described(database)}:
        raise StartError(f"the table has a column {name} already: drop that one, or choose another name")
    absent = "NULL" if "Nullable" in declared else "empty" if "String" in declared else "the default of the type"
    comment = (
        f"Property {_shown(steps)} of properties; {absent} if there is none or it does not fit (analytics columns)"
    )
    added = f"`{name}` {declared} DEFAULT {default} COMMENT {_quoted(comment)} CODEC(ZSTD(1))"
    await database.command(f"ALTER TABLE {TABLE} ADD COLUMN {added}")


async def drop_column(database: Database, name: str) -> None:
    """Drop a column that ``add_column`` has made; the properties stay. Raises StartError if it is none, StoreError."""
    await _require(database, name)
    await database.command(f"ALTER TABLE {TABLE} DROP COLUMN `{name}`")


async def fill_column(database: Database, name: str) -> None:
    """Begin to write a column down for rows from before it; ``fill_state`` tells how far that is.

    Raises StartError if it is none, StoreError.
    """
    await _require(database, name)
    await database.command(f"ALTER TABLE {TABLE} MATERIALIZE COLUMN `{name}` SETTINGS mutations_sync = 0")


async def fill_states(database: Database, name: str) -> AsyncIterator[FillState]:
    """How far the last ``fill_column`` is, asked for anew for each; the last one has all done. Raises StoreError."""
    most = 0
    pending = True
    while pending:
        [(pending, left, written, problem)] = await database.query(statement("column_fill"), {"name": name})  # type: ignore[assignment]
        rows = max(0, int(left) - int(written)) if pending else 0  # type: ignore[call-overload]
        most = max(most, rows)
        yield FillState(most - rows, most, str(problem))


def path_steps(path: str) -> list[str]:
    """The keys of a path: ``a.b``, ``$.a.b`` or ``$['a.b']``. Raises StartError."""
    text = path[1:] if path.startswith("$") else f".{path}"
    steps = [next(one for one in match.groups() if one) for match in _STEP.finditer(text)]
    if not steps or _STEP.sub("", text):
        raise StartError(
            f"{path!r} is no path: write order.price, $.order.price or $['a key with.dots']; lists have none"
        )
    return [re.sub(r"\\(.)", r"\1", one) for one in steps]


def column_default(kind: str, steps: list[str]) -> tuple[str, str]:
    """The type as ClickHouse has it, and the expression that fills the column. Raises StartError."""
    match = _TYPE.fullmatch(kind.replace(" ", ""))
    if not match or len(match["ends"]) != bool(match["low"]) + bool(match["null"]):
        raise StartError(f"{kind!r} is no type for a column out of properties: these are {TYPES_HELP}")
    if match["low"] and match["kind"] != "String":
        raise StartError(f"{kind!r} is no type for a column out of properties: only String can be LowCardinality")
    base, nullable = match["base"], bool(match["null"])
    if match["scale"] and not 1 <= int(match["precision"]) <= 76 >= int(match["precision"]) >= int(match["scale"]):
        raise StartError(f"{kind!r}: a Decimal has 1 to 76 digits, and no more of them behind the point")
    if match["digits"]:
        base = f"DateTime64({match['digits']}, 'UTC')"
    is_text = base == "String"
    lines = [line for line in statement("property").splitlines() if not line.startswith("--")]
    text = " ".join(" ".join(lines).split())
    text = text.replace("IN_DIGITS", str(int(is_text))).replace("PATH", ", ".join(map(_quoted, steps)))
    declared = f"Nullable({base})" if nullable else base
    if is_text:
        return (
            f"LowCardinality({declared})" if match["low"] else declared
        ), f"nullIf({text}, '')" if nullable else text
    value = _converted(text, base, match)
    return declared, value if nullable else f"ifNull({value}, defaultValueOfTypeName({_quoted(base)}))"


def _converted(text: str, base: str, match: re.Match[str]) -> str:
    """The value of a text, or NULL if it does not fit the type."""
    if base.startswith("Decimal"):
        return f"accurateCastOrNull(extract({text}, {_quoted(_NUMBER)}), {_quoted(base)})"
    if base.startswith("Float"):
        number = f"to{base}OrNull(extract({text}, {_quoted(_NUMBER)}))"
        return f"if(isFinite({number}), {number}, NULL)"
    if base == "Date32":
        return f"toDate32OrNull(extract({text}, '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}'))"
    if base.startswith("DateTime64"):
        return f"parseDateTime64BestEffortOrNull(extract({text}, {_quoted(_TIME)}), {match['digits']}, 'UTC')"
    return f"accurateCastOrNull({text}, {_quoted(base)})"


async def _described(database: Database) -> list[tuple[str, str, str]]:
    rows = await database.query(f"DESCRIBE TABLE {TABLE}")
    return [(str(name), str(kind), str(comment)) for name, kind, _, _, comment, *_ in rows]


async def _ours(database: Database) -> list[tuple[str, str, str]]:
    """Name, type and path of each column that ``add_column`` has made."""
    found = [(name, kind, _COMMENT.fullmatch(comment)) for name, kind, comment in await _described(database)]
    return [(name, kind, match["path"]) for name, kind, match in found if match]


async def _require(database: Database, name: str) -> None:
    if name not in {ours for ours, *_ in await _ours(database)}:
        raise StartError(f"{name} is no column that `analytics columns` has made: see `analytics columns list`")


def _shown(steps: list[str]) -> str:
    """The path as a person may write it."""
    plain = all(re.fullmatch(r"""[^.\[\]'"$]+""", step) for step in steps)
    quoted = "".join("['{}']".format(re.sub(r"(['\\])", r"\\\1", step)) for step in steps)
    return ".".join(steps) if plain else f"${quoted}"


def _quoted(text: str) -> str:
    """A literal of SQL."""
    return "'{}'".format(text.replace("\\", "\\\\").replace("'", "\\'"))
