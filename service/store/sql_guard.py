"""Which queries of analysts may run: ClickHouse's own parser says what they are, ``sql_allowed.txt`` what is allowed.

1. ``formatQuerySingleLine`` parses the text, refuses several statements, and writes it anew without comments. What is
   looked at is what runs: this text, never the one that was sent.
2. ``EXPLAIN QUERY TREE run_passes = 0 SELECT * FROM (text)`` is the query as ClickHouse's analyzer takes it, parameters
   put in, before any name is looked up or anything is read. Inside of brackets there is no ``INTO OUTFILE``, no
   ``INSERT`` and no second statement. Every function, table function and identifier has a line in it.
3. Functions and table functions must be on a list, so that one of a newer ClickHouse is refused until somebody has
   looked at it. No identifier may lead into another database, but for harmless tables of ``system``.

The query then runs with ``readonly = 1`` and limits, and ClickHouse refuses settings and statements once more.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from service.errors import SqlError

#: Asks ClickHouse on a connection that can only read; the answer as raw text. Raises SqlError.
Ask = Callable[[str, Mapping[str, str]], Awaitable[str]]

ACCESS_DENIED, READONLY, SYNTAX_ERROR, NOT_IMPLEMENTED = 497, 164, 62, 48
#: Besides those in ``sql_allowed.txt``. One of them names a file that the engine would write.
SETTING_PREFIX, NO_SETTINGS = "output_format_", frozenset({"output_format_schema"})
#: Of these a client gets the lower of its own and ours.
LIMITS = frozenset({"max_execution_time", "max_result_rows", "max_memory_usage"})
INFORMATION_SCHEMA = "information_schema"
#: The nodes of a tree that has not been resolved. One that is not known here may hold what is not looked at.
NODES = frozenset({
    "ARGUMENT", "ARGUMENTS", "ARRAY_JOIN", "COLUMN", "CONSTANT", "CROSS JOIN", "CROSS_JOIN", "FUNCTION", "IDENTIFIER",
    "INTERPOLATE", "JOIN", "LAMBDA", "LIST", "MATCHER", "QUERY", "SORT", "TABLE_FUNCTION", "UNION", "WINDOW",
    *(f"{kind} COLUMN TRANSFORMER" for kind in ("APPLY", "EXCEPT", "REPLACE")),
})  # fmt: skip
_CANONICAL = "SELECT formatQuerySingleLine({query:String})"
_NAMES = (
    "SELECT 'database', name FROM system.databases"
    " UNION ALL SELECT 'function', name FROM system.functions WHERE lower(name) IN {names:Array(String)}"
)
_TREE = "EXPLAIN QUERY TREE run_passes = 0 SELECT * FROM ({})"
#: How the line begins that tells the settings of the query itself, and none of a subquery.
_TOP = " " * 6 + "SETTINGS "
_COMBINATORS = (
    *("If", "Array", "Map", "State", "SimpleState", "Merge", "ForEach", "Distinct", "OrDefault", "OrNull", "Resample"),
    *("ArgMin", "ArgMax", "Tuple", "Null"),
)
#: Formats that are protocols, and nothing to write into an answer.
_NO_FORMATS = frozenset({"MySQLWire", "PostgreSQLWire"})


class Guarded(NamedTuple):
    """A query that may run: its text without FORMAT, its format if it names one, and the settings that it wants.

    ``tells_settings``: it reads which settings there are, for a client that will set some.
    """

    text: str
    format: str
    settings: dict[str, str]
    tells_settings: bool = False


async def guard(ask: Ask, text: str, parameters: Mapping[str, str], database: str) -> Guarded:
    """What may run of a query. Raises SqlError in ClickHouse's words, or ours if it is refused here."""
    if not text.strip():
        raise SqlError(SYNTAX_ERROR, "Syntax error: Empty query", "SYNTAX_ERROR")
    canonical = (await ask(_CANONICAL, {"query": escape(text)})).strip("\n")
    body, tail = _split_format(canonical)
    head = body.split(" ", 1)[0]
    if head in ("SHOW", "EXISTS"):
        _look_at_statement(body, await ask(f"EXPLAIN AST {body}", parameters), database)
        return Guarded(body, _format_of(tail), {})
    for candidate, format_ in _readings(canonical):
        runs, looked_at = _as_table(candidate)
        try:
            tree = await ask(_TREE.format(looked_at), parameters)
        except SqlError as error:
            if error.code != SYNTAX_ERROR:
                raise
            continue
        look = _Look(tree)
        names = ",".join("'" + escape(name).replace("'", "\\'") + "'" for name in look.short)
        found = await ask(_NAMES, {"names": f"[{names}]"})
        look.at_identifiers([tuple(line.split("\t", 1)) for line in found.splitlines()], database)
        tells_settings = "system.settings" in look.identifiers
        if tells_settings and (limits := LIMITS.intersection(look.settings)):
            raise cannot_modify(min(limits))
        return Guarded(runs, format_, look.settings, tells_settings)
    raise refused("only SELECT, SHOW, DESCRIBE, EXISTS and EXPLAIN may run, without INTO OUTFILE", READONLY)


def is_allowed(setting: str) -> bool:
    """Whether a client may have this setting, as it likes it."""
    own = setting.startswith(SETTING_PREFIX) and setting not in NO_SETTINGS
    return own or setting in allowed("settings")


def escape(text: str) -> str:
    """A text as the value of a parameter of type String."""
    for special, escaped in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r"), ("\0", "\\0")):
        text = text.replace(special, escaped)
    return text


def refused(why: str, code: int = ACCESS_DENIED) -> SqlError:
    """What we refuse, in the form of ClickHouse."""
    name = {ACCESS_DENIED: "ACCESS_DENIED", READONLY: "READONLY", NOT_IMPLEMENTED: "NOT_IMPLEMENTED"}[code]
    return SqlError(code, f"Not allowed on the read-only SQL port: {why}", name)


def cannot_modify(setting: str) -> SqlError:
    """What ClickHouse says of a setting that may not be changed."""
    return SqlError(READONLY, f"Cannot modify '{setting}' setting in readonly mode", "READONLY")


def _split_format(canonical: str) -> tuple[str, str]:
    body, found, tail = canonical.rpartition(" FORMAT ")
    return (body, tail) if found else (canonical, "")


def _readings(canonical: str) -> Iterator[tuple[str, str]]:
    """The text as it is; and without a FORMAT at its end. ClickHouse's parser tells which of them is a query."""
    body, tail = _split_format(canonical)
    yield canonical, ""
    if tail:
        name, found, settings = tail.partition(" SETTINGS ")
        yield body + (f" SETTINGS {settings}" if found else ""), _format_of(name)


def _format_of(tail: str) -> str:
    name = tail.strip("`")
    if name in _NO_FORMATS or not all(one.isalnum() for one in name):
        raise SqlError(73, f"Unknown format {name}", "UNKNOWN_FORMAT")
    return name


def _as_table(text: str) -> tuple[str, str]:
    """What runs of a statement; and what it reads, as it may stand in brackets."""
    if text.startswith("EXPLAIN "):
        if " INTO OUTFILE " in text:
            raise refused("INTO OUTFILE", READONLY)
        return text, f"SELECT * FROM ({text})"  # noqa: S608  # ClickHouse wrote it
    if text.startswith("DESCRIBE TABLE "):
        return text, "SELECT * FROM " + text.removeprefix("DESCRIBE TABLE ")  # noqa: S608
    return text, text


class _Look:
    """At every node of a tree. Raises SqlError."""

    def __init__(self, tree: str) -> None:
        #: The settings that the query wants. Of its limits ClickHouse judges whether they are ours; it does not judge
        #: those of subqueries.
        self.settings: dict[str, str] = {}
        self.identifiers: set[str] = set()
        for line in tree.splitlines():
            node, is_node, about = line.strip().partition(" id: ")
            if is_node:
                self._at_node(node, about)
            elif node.startswith("SETTINGS "):
                pairs = (one.partition("=") for one in node.removeprefix("SETTINGS ").split(" "))
                settings = {name: value for name, found, value in pairs if found}
                limits = LIMITS if line.startswith(_TOP) else frozenset()
                if lifted := sorted(name for name in settings if not is_allowed(name) and name not in limits):
                    raise cannot_modify(lifted[0])
                if limits:
                    self.settings |= settings

    def _at_node(self, node: str, about: str) -> None:
        if node not in NODES:
            raise refused(f"ClickHouse's parser found a part of unknown kind, {node}")
        if node == "FUNCTION":
            name = _last(about, "function_name")
            if name.lower() not in _lowered("functions") and not _is_combined(name):
                raise refused(f"the function {name}")
        elif node == "TABLE_FUNCTION":
            name = _last(about, "table_function_name")
            if name.lower() not in _lowered("table functions"):
                raise refused(f"the table function {name}")
        elif node == "IDENTIFIER":
            self.identifiers.add(_last(about, "identifier", until=None))

    @property
    def short(self) -> set[str]:
        """What may be the name of a function, in small letters: ``arrayMap(file, ...)`` calls one by its name."""
        return {name.lower() for name in self.identifiers if name.lower() not in _lowered("functions")}

    def at_identifiers(self, found: list[tuple[str, ...]], database: str) -> None:
        """Look at the identifiers, knowing all databases, and which identifiers are names of functions."""
        for kind, name in found:
            if kind == "function" and not _is_combined(name):
                raise refused(f"the function {name}; a column of that name needs another one")
            if kind == "database" and name != database:
                for identifier in self.identifiers:
                    _look_at_foreign(identifier, name)


def _look_at_foreign(identifier: str, database: str) -> None:
    """Raise SqlError if it may lead into another database. A name of one part is looked for in that of the events."""
    if not identifier.startswith(f"{database}."):
        return
    table = identifier.removeprefix(f"{database}.").partition(".")[0].partition(",")[0]
    if database.lower() == INFORMATION_SCHEMA or (database == "system" and table in allowed("system tables")):
        return
    raise refused(f"{identifier}: only the database of the events and some tables of system can be read")


def _look_at_statement(text: str, tree: str, database: str) -> None:
    """SHOW and EXISTS name a table, or none; what they find of others is filtered when they run. Raises SqlError."""
    kind, *names = tree.splitlines()[0].partition(" (children")[0].split(" ")
    words = text.split(" ")
    known = kind in ("ShowTables", "ShowColumns", "ShowIndexes", "ShowFunctions", "ShowEngineQuery")
    one_table = kind in ("ShowCreateTableQuery", "ShowCreateViewQuery", "ExistsTableQuery", "ExistsViewQuery")
    if {"WHERE", "OUTFILE"} & set(words) or not (known or one_table):
        raise refused(f"{' '.join(words[:2])}; ask the tables of system instead")
    if words[1] in ("CLUSTERS", "CLUSTER", "FILESYSTEM", "DICTIONARIES", "MERGES"):
        raise refused(f"SHOW {words[1]}")
    if one_table and (len(names) != 2 or names[0] not in ("", database)):
        raise refused("tables of other databases")


def _last(about: str, field: str, until: str | None = ", ") -> str:
    """The last field of that name: an alias may hold anything, and comes before it."""
    _, found, value = f", {about}".rpartition(f", {field}: ")
    if not found:
        raise refused("a name with a line break in it")
    return value.partition(until)[0] if until else value


@cache
def allowed(kind: str) -> frozenset[str]:
    """What ``sql_allowed.txt`` lists under that heading."""
    text = files("service.store").joinpath("sql_allowed.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    _, _, rest = "\n".join(lines).partition(f"[{kind}]\n")
    return frozenset(rest.partition("\n[")[0].split())


@cache
def _lowered(kind: str) -> frozenset[str]:
    return frozenset(name.lower() for name in allowed(kind))


def _is_combined(name: str) -> bool:
    """Whether it is an aggregate function, perhaps with combinators, such as ``uniqStateIf``."""
    if name.lower() in _lowered("aggregate functions"):
        return True
    return any(name.endswith(end) and _is_combined(name.removesuffix(end)) for end in _COMBINATORS)
