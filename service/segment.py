"""What a sealed segment is, and the names of its file. What a name means is at the head of ``spool``."""

import re
import secrets
from pathlib import Path
from typing import NamedTuple

#: A token, as a regular expression.
NAME_FORM = r"(?P<token>[0-9a-f]{12}-[0-9a-f]{16})"
OPEN = re.compile(NAME_FORM + r"\.open")
SEALED = re.compile(NAME_FORM + r"\.(?P<rows>\d+)\.sealed")


class Segment(NamedTuple):
    """A sealed segment: its token, how many rows its frames hold, its file and that file's size in bytes."""

    token: str
    rows: int
    path: Path
    size: int

    @property
    def made_at(self) -> float:
        """When its first event came, in seconds since 1970: its token tells."""
        return int(self.token[:12], 16) / 1000


def new_token(milliseconds: int) -> str:
    """A token that was never used."""
    return f"{milliseconds:012x}-{secrets.token_hex(8)}"
