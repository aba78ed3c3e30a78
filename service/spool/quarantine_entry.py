"""An entry of the quarantine: a file that holds a refused row with the reason, or damaged bytes of a segment."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from schemas.payload import Header
from schemas.rows import CURRENT
from service.errors import Rejected
from service.spool.segment import NAME_FORM

#: The file name: the segment's name, then the index of the row in it or the byte at which the damage begins.
ENTRY = re.compile(NAME_FORM + r"\.(?P<position>\d+)\.(?:json|damaged)")


class Entry(NamedTuple):
    """One file of the quarantine."""

    path: Path
    segment: str
    position: int

    @property
    def damaged(self) -> bool:
        """Whether it holds damaged bytes rather than a row."""
        return self.path.suffix == ".damaged"

    def document(self) -> dict[str, Any]:
        """What the entry of a row says. Raises OSError or ValueError."""
        found = json.loads(self.path.read_bytes())
        if not isinstance(found, dict) or not isinstance(found.get("values"), dict):
            raise ValueError("no entry of the quarantine")
        return found

    def row(self) -> tuple[Header, tuple[Any, ...]]:
        """The row and its columns. Raises OSError, or ValueError if somebody has broken it by hand."""
        document = self.document()
        values = document["values"]
        types = document.get("types") or dict(zip(CURRENT.names, CURRENT.types, strict=True))
        try:
            header = Header(tuple(values), tuple(types[name] for name in values), int(document.get("tries", 1)))
            return header, tuple(_value(name, types[name], value) for name, value in values.items())
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def document_of(segment: str, index: int, header: Header, row: tuple[Any, ...], error: Rejected) -> bytes:
    """The content of the entry of a row. ``Entry.row`` reads the same row back."""
    document = {
        "token": segment,
        "row": index,
        "time": datetime.now(UTC).isoformat(),
        "code": error.code,
        "reason": str(error),
        "tries": header.tries + 1,
        "values": {
            name: one.hex() if isinstance(one, bytes) else one for name, one in zip(header.names, row, strict=True)
        },
        "types": dict(zip(header.names, header.types, strict=True)),
    }
    return json.dumps(document, indent=1).encode()


def _value(name: str, type_: str, value: Any) -> Any:
    """The value as a row has it. A wrong type must not reach the driver: its error would look temporary."""
    if type_.startswith("Nullable("):
        return None if value is None else _value(name, type_.removeprefix("Nullable(").removesuffix(")"), value)
    if type_ == "UUID":
        return UUID(value).bytes
    if type_ in ("String", "LowCardinality(String)"):
        if not isinstance(value, str):
            raise ValueError(f"{name} is no text")
        value.encode()  # lone surrogates
    if type_.startswith(("DateTime64", "Int")) and (type(value) is not int or not -(2**63) <= value < 2**63):
        raise ValueError(f"{name} is no whole number of 64 bits")
    if type_ == "UInt32" and (type(value) is not int or not 0 <= value < 2**32):
        raise ValueError(f"{name} is no whole number of 32 bits, 0 or more")
    return value
