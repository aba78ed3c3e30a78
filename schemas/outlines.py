"""A large JSON document, read only as far as the contract looks: its own members, and its events as texts.

What is under other names, and what members hold, is skipped in C. Taking a million values apart in Python would hold up
everybody else.
"""

import json
import re
from typing import Any

import msgspec

from schemas.events import BATCH_MAX_EVENTS, Event, EventBatch

#: A document with more values is large. Smaller ones are read as FastAPI reads them.
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
    """The texts of an object's members that the contract names; of a key given twice the last counts.

    Of what is no object there are none. Raises msgspec.DecodeError if it is not strict JSON, RecursionError if it is
    nested too deep.
    """
    if not text.lstrip().startswith(b"{"):
        _raw(text)
        return {}
    found = _read_members(text)
    return {name: bytes(one) for name in _NAMES if (one := getattr(found, name)) is not msgspec.UNSET}


def elements(text: bytes) -> list[bytes]:
    """The texts of an array's elements; if there are more than a batch may have events, one more than that."""
    found: list[bytes] = []
    rest = memoryview(text)
    place = _skip_space(text, 1)
    while text[place] != ord("]") and len(found) <= BATCH_MAX_EVENTS:
        end = place + _length(rest[place:])
        found.append(text[place:end].rstrip())
        place = _skip_space(text, end + 1) if text[end] == ord(",") else end
    return found


def outline(text: bytes) -> Any:
    """The value of ``text``, without what it holds if it is an object or an array."""
    return {} if text.startswith(b"{") else [] if text.startswith(b"[") else json.loads(text)


def _length(text: memoryview) -> int:
    """Up to where the first value goes, with the space behind it. Something else must follow."""
    try:
        raise ValueError(_raw(text))
    except msgspec.DecodeError as error:  # msgspec has no other way to read one value and leave the rest
        if not (behind := _BEHIND.search(str(error))):
            raise
        return int(behind[1]) - 1


def _skip_space(text: bytes, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place
