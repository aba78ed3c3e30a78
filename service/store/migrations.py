"""Migrations: the numbered SQL files of ``schemas/sql/migrations``, applied in order and recorded in a table.

Each file is one statement that may run twice (IF NOT EXISTS): two instances that start at once both run
it, and a crash between the statement and its record does no harm. A shipped file is never edited: if its
text differs from the recorded one, it is refused. So is a database with later migrations than this program
knows.
"""

import hashlib
import logging
import re
from typing import NamedTuple, Protocol

from schemas.statements import migration_files
from service.errors import Misconfigured

_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")
_RECORD = """CREATE TABLE IF NOT EXISTS migrations (
    number UInt16 COMMENT 'Number of the migration, as in its file name',
    name String COMMENT 'File name',
    sha256 String COMMENT 'Hash of the file as it was applied, in hexadecimal',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When it was applied'
) ENGINE = MergeTree ORDER BY number COMMENT 'Which migrations of the analytics service were applied'"""


class Migration(NamedTuple):
    """One migration file."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class Database(Protocol):
    """What migrating needs of the store."""

    async def command(self, sql: str, parameters: dict[str, object] | None = None) -> None: ...

    async def query(self, sql: str, parameters: dict[str, object] | None = None) -> list[tuple[object, ...]]: ...


def shipped() -> list[Migration]:
    """The migrations of this version, in order."""
    found = []
    for file in migration_files():
        if match := _NAME.fullmatch(file.name):
            found.append(Migration(int(match["number"]), file.name, file.read_text("utf-8")))
    return sorted(found)


async def migrate(database: Database, migrations: list[Migration] | None = None) -> list[Migration]:
    """Apply the missing migrations, and return them. Raises StoreError; Misconfigured if old and new don't match."""
    migrations = shipped() if migrations is None else migrations
    await database.command(_RECORD)
    recorded = await database.query("SELECT number, any(name), groupUniqArray(sha256) FROM migrations GROUP BY number")
    applied = {number: (name, hashes) for number, name, hashes in recorded}
    for migration in migrations:
        name, hashes = applied.pop(migration.number, (None, None))
        if name is not None and hashes != [migration.sha256]:
            raise Misconfigured(
                f"migration {migration.name} is not the one that was applied to this database (as {name}):"
                " it was edited after it shipped; restore the file, and put the change into a new migration"
            )
    if applied:
        name = max(applied.values())[0]
        raise Misconfigured(f"the database has migration {name}, which this version does not know: run a newer version")
    done = {number for number, *_ in recorded}
    missing = [migration for migration in migrations if migration.number not in done]
    for migration in missing:
        await database.command(migration.sql)
        await database.command(
            "INSERT INTO migrations (number, name, sha256) VALUES ({number:UInt16}, {name:String}, {sha256:String})",
            {"number": migration.number, "name": migration.name, "sha256": migration.sha256},
        )
        _log.info("applied migration %s", migration.name)
    return missing


_log = logging.getLogger(__name__)
