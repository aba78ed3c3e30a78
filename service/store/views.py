"""The views for analysts: the files of ``schemas/sql/views``, made where migrations are.

A view may change from release to release, so its file has a version at its head; the comment of the view in ClickHouse
ends with the version that it was made from. A view that is missing is made, an older one is replaced, and one of a
newer version is left alone: so versions side by side don't undo each other's work, and going back needs no migration.
What has the name of a view and was not made by the service is left alone too. Nothing of the service reads a view: one
that can't be made is a warning.
"""

import logging
import re
from importlib.resources.abc import Traversable
from typing import NamedTuple

from schemas.statements import view_files
from service.errors import StoreError
from service.store.migrations import Database

_log = logging.getLogger(__name__)
_HEAD = re.compile(r"-- version (?P<version>\d+)\n(?P<about>(?:-- .*\n)+)(?P<query>SELECT.*)", re.DOTALL)
_MADE_FROM = re.compile(r"\(analytics view, version (\d+)\)$")
_THERE = (
    "SELECT name, engine, comment FROM system.tables"
    " WHERE database = currentDatabase() AND has({names:Array(String)}, name)"
)


class View(NamedTuple):
    """A view: ``about`` says what it shows and what each of its columns means, a line each."""

    name: str
    version: int
    about: str
    query: str

    @property
    def comment(self) -> str:
        """What ClickHouse keeps with it."""
        return f"{self.about}\n(analytics view, version {self.version})"


def shipped_views() -> list[View]:
    """The views of this version."""
    return [_read(file) for file in view_files()]


async def make_views(database: Database, views: list[View] | None = None) -> list[View]:
    """Make those that are missing or of an older version, and return them. Raises StoreError if nobody answers."""
    views = shipped_views() if views is None else views
    rows = await database.query(_THERE, {"names": [view.name for view in views]})
    there = {name: (engine, str(comment)) for name, engine, comment in rows}
    made = []
    for view in views:
        engine, comment = there.get(view.name, (None, ""))
        made_from = _MADE_FROM.search(comment)
        if engine and (engine != "View" or not made_from):
            _log.warning("the view %s is not made: something else has that name", view.name)
            continue
        if made_from and int(made_from[1]) >= view.version:
            continue
        try:
            if engine:
                await database.command(f"DROP VIEW IF EXISTS {view.name}")
            await database.command(_statement(view))
        except StoreError as error:
            if not error.code:
                raise
            _log.warning("the view %s is not made: %s", view.name, error)
        else:
            made.append(view)
    return made


def _statement(view: View) -> str:
    """Not CREATE OR REPLACE: that needs the right to drop any table."""
    comment = view.comment.replace("\\", "\\\\").replace("'", "\\'")
    return f"CREATE VIEW IF NOT EXISTS {view.name} AS {view.query} COMMENT '{comment}'"


def _read(file: Traversable) -> View:
    match = _HEAD.fullmatch(file.read_text("utf-8"))
    assert match, f"{file.name} has no head"  # noqa: S101  # we ship it
    about = "\n".join(line.removeprefix("-- ") for line in match["about"].splitlines())
    return View(file.name.removesuffix(".sql"), int(match["version"]), about, match["query"].rstrip())
