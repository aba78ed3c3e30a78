"""The parts of a JSON document as text, so that each can be validated alone and kept as it was written.

Only for documents that ``json.loads`` has accepted: nothing here looks for faults.
"""

import json
import re

#: Numbers are not computed: the time for a long one would grow with the square of its digits.
_value_at = json.JSONDecoder(parse_int=len, parse_float=len).raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


def slices_of_object(text: str) -> dict[str, str]:
    """The text of each member's value. If a key occurs twice, the last one counts, as everywhere."""
    members = {}
    place = _skip(text, _skip(text, 0) + 1)
    while text[place] != "}":
        key, place = _value_at(text, place)
        place = _skip(text, _skip(text, place) + 1)
        members[key], place = _slice(text, place)
    return members


def slices_of_array(text: str) -> list[str]:
    """The text of each element."""
    elements = []
    place = _skip(text, _skip(text, 0) + 1)
    while text[place] != "]":
        element, place = _slice(text, place)
        elements.append(element)
    return elements


def _slice(text: str, start: int) -> tuple[str, int]:
    """The text of the value at ``start``, and the place after it and its comma."""
    _, end = _value_at(text, start)
    place = _skip(text, end)
    return text[start:end], _skip(text, place + 1) if text[place] == "," else place


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place
