"""The SQL of the service: the files of ``schemas/sql``, read once."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_FOLDER = files("schemas").joinpath("sql")


@cache
def statement(name: str) -> str:
    """The text of ``schemas/sql/<name>.sql``."""
    return _FOLDER.joinpath(f"{name}.sql").read_text("utf-8")


def migration_files() -> list[Traversable]:
    """The files of ``schemas/sql/migrations`` by their name, which begins with their number."""
    return sorted(_FOLDER.joinpath("migrations").iterdir(), key=lambda file: file.name)


def view_files() -> list[Traversable]:
    """The files of ``schemas/sql/views``, by name."""
    return sorted(_FOLDER.joinpath("views").iterdir(), key=lambda file: file.name)
