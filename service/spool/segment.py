"""A sealed segment, and the names of its file. The head of ``spool`` says what the names mean."""

import re
import secrets
from pathlib import Path
from typing import NamedTuple

#: The name of a segment, as a regular expression.
NAME_FORM = r"(?P<name>[0-9a-f]{12}-[0-9a-f]{16})"
OPEN = re.compile(NAME_FORM + r"\.open")
#: A range in a file ``<name>.splits`` of an earlier version.
_SPLIT = re.compile(rb"(\d+)-(\d+);")
SEALED = re.compile(NAME_FORM + r"\.(?P<rows>\d+)(?:-(?P<ids>\d+))?\.sealed")


class Segment(NamedTuple):
    """A sealed segment: its name, how many rows its frames hold, its file and that file's size in bytes.

    ``ids``: how many of its rows have ids that clients made, in frames of their own; None where frames mix both kinds,
    as earlier versions wrote them. ``splits``: the row ranges that such a version noted as rejected.
    """

    name: str
    rows: int
    path: Path
    size: int
    ids: int | None = 0
    splits: frozenset[tuple[int, int]] = frozenset()

    @property
    def made_at(self) -> float:
        """When its first event came, in seconds since 1970, from its name."""
        return int(self.name[:12], 16) / 1000


def read_splits(path: Path) -> frozenset[tuple[int, int]]:
    """The ranges that an earlier version has halved, from its note beside a segment."""
    try:
        found = _SPLIT.findall(path.read_bytes())
    except FileNotFoundError:
        return frozenset()
    return frozenset((int(start), int(stop)) for start, stop in found)


def sealed_name(name: str, rows: int, ids: int) -> str:
    """The name of a sealed segment's file."""
    return f"{name}.{rows}-{ids}.sealed" if ids else f"{name}.{rows}.sealed"


def new_name(milliseconds: int) -> str:
    """A name that no segment has had."""
    return f"{milliseconds:012x}-{secrets.token_hex(8)}"
