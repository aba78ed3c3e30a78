"""A large JSON document, read only as far as the contract needs: its own members, and its events as texts.

Other members, and the contents of members, are skipped in C. Parsing a million values in Python would block all other
requests.
"""

import json
import re
from typing import Any

import msgspec

from schemas.events import BATCH_MAX_EVENTS, Event, EventBatch

#: A document with more values is large. FastAPI's steps read smaller ones.
VALUES_MAX = 20_000
_raw = msgspec.json.Decoder(msgspec.Raw).decode
_NAMES = tuple(dict.fromkeys([*EventBatch.model_fields, *Event.model_fields]))
_read_members = msgspec.json.Decoder(
    msgspec.defstruct("Members", [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in _NAMES])
).decode
_BEHIND = re.compile(r"trailing characters \(byte (\d+)\)")
_SPACE = re.compile(rb"[ \t\n\r]*")


def is_large(body: bytes) -> bool:
    """Whether it may have more than ``VALUES_MAX`` values. Commas and brackets in strings count like those outside."""
    return len(body) > VALUES_MAX and len(body) - len(body.translate(None, b",[{")) > VALUES_MAX


def members(text: bytes) -> dict[str, bytes]:
    """The texts of those members of an object that the contract names; if a key occurs twice, the last one counts.

    Empty if it is not an object. Raises msgspec.DecodeError if it is not strict JSON, RecursionError if it is nested
    too deep.
    """
    if not text.lstrip().startswith(b"{"):
        _raw(text)
        return {}
    found = _read_members(text)
    return {name: bytes(one) for name in _NAMES if (one := getattr(found, name)) is not msgspec.UNSET}


def elements(text: bytes) -> list[bytes]:
    """The texts of an array's elements, at most one more than a batch may have events."""
    found: list[bytes] = []
    rest = memoryview(text)
    place = _skip_space(text, 1)
    while text[place] != ord("]") and len(found) <= BATCH_MAX_EVENTS:
        end = place + _length(rest[place:])
        found.append(text[place:end].rstrip())
        place = _skip_space(text, end + 1) if text[end] == ord(",") else end
    return found


def outline(text: bytes) -> Any:
    """The value of ``text``; an object or array is empty."""
    return {} if text.startswith(b"{") else [] if text.startswith(b"[") else json.loads(text)


def _length(text: memoryview) -> int:
    """The length of the first value and the space after it. Something else must follow."""
    try:
        raise ValueError(_raw(text))
    except msgspec.DecodeError as error:  # only so msgspec reads one value and leaves the rest
        if not (behind := _BEHIND.search(str(error))):
            raise
        return int(behind[1]) - 1


def _skip_space(text: bytes, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place
