"""A query of an analyst, its answer, and how it reaches one kind of ClickHouse."""

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol

from service.store.sql_guard import Guarded


class SqlQuery(NamedTuple):
    """A query as a client sends it. ``compression`` is one of ``sql_embedded.COMPRESSIONS`` or empty."""

    text: str
    parameters: Mapping[str, str] = {}
    settings: Mapping[str, str] = {}
    format: str = ""
    id: str = ""
    compression: str = ""


class Result(Protocol):
    """The answer to a query.

    ``chunks`` are its bytes. They may raise SqlError; or ConnectionResetError, if the last bytes tell of the error.
    ``summary`` is whole at their end.
    """

    format: str
    summary: dict[str, str]

    def chunks(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None:
        """Cancel what still runs."""


class Reader(Protocol):
    """How queries reach one kind of ClickHouse. All raise SqlError."""

    async def ask(self, sql: str, parameters: Mapping[str, str]) -> str: ...
    async def run(self, query: SqlQuery, guarded: Guarded, settings: Mapping[str, str]) -> Result: ...
    async def close(self) -> None: ...
