"""What is wrong with a body, in the words that FastAPI with the same pydantic models would use.

Runs only if the fast way in ``schemas.parse`` did not take a body, so it may be slow. Where FastAPI
itself crashes or accepts what can't be stored (invalid UTF-8, lone surrogates, NaN), the answer is one
``json_invalid`` item in the same form.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import orjson
from pydantic import BaseModel, ValidationError

from schemas import outlines

#: One entry of the contract's ``detail``: type, loc, msg, input and perhaps ctx.
ErrorItem = dict[str, Any]
#: An echoed input that is longer than this as JSON is cut to it.
INPUT_MAX_BYTES = 1024

_TOO_DEEP = "Nested too deep"
#: More digits than an echo shows. The time of ``int`` grows with the square of the digits.
_INT_MAX_DIGITS = INPUT_MAX_BYTES + 1
_NOT_UNICODE = "Input should be a valid string, unable to parse raw data as a unicode string"

Model = TypeVar("Model", bound=BaseModel)


class Invalid(Exception):
    """The body is refused; ``errors`` says why, item by item."""

    def __init__(self, errors: list[ErrorItem]) -> None:
        super().__init__(f"{len(errors)} validation errors")
        self.errors = errors


def check(body: bytes, model: type[Model], *, strict_json: bool = True) -> Model:
    """``body`` as a ``model``, read by FastAPI's steps and then checked by the rules of strict JSON. Raises Invalid."""
    if not body:
        raise Invalid([_missing()])
    value = _load(body)
    valid = _validate(model, value, {})
    if strict_json:
        _check_strict_json(body, value)
    return valid


def members_of_large(body: bytes) -> dict[str, bytes]:
    """The texts of the members that the contract names. Raises Invalid if the body is not strict JSON."""
    with _faults_of_strict_json(body, None):
        body.decode()
        return outlines.members(body)


def check_large(
    text: bytes, members: Mapping[str, bytes], model: type[Model], events: list[bytes] | None = None
) -> Model:
    """A large object as a ``model`` in which objects and arrays are empty. Raises Invalid.

    ``members`` are the texts of its members; ``events`` those of the events, if it has an array of them.
    """
    value = (
        {name: outlines.outline(one) for name, one in members.items()} if members else outlines.outline(text.strip())
    )
    texts = {id(value[name]): one for name, one in members.items()} | {id(value): text}
    if events is not None:
        value["events"] = events
        texts[id(events)] = members["events"]
    return _validate(model, value, texts)


def _validate(model: type[Model], value: Any, texts: Mapping[int, bytes]) -> Model:
    """``texts`` has the text to echo for some values, by their ``id``."""
    try:
        return model.model_validate(value, from_attributes=True)
    except ValidationError as error:
        raise Invalid([_item(dict(item), texts) for item in error.errors(include_url=False)]) from None


def _load(body: bytes) -> Any:
    encoding = json.detect_encoding(body)
    if encoding.startswith(("utf-16", "utf-32")):
        raise Invalid([_json_invalid(0, f"The body is {encoding[:6].upper()}; JSON is sent as UTF-8")])
    try:
        # surrogatepass, as json.loads(bytes) has it: then pydantic names the field that holds the surrogate
        return _decode_json(body.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        raise Invalid([_bad_utf8(error)]) from None
    except json.JSONDecodeError as error:
        raise Invalid([_json_invalid(error.pos, error.msg)]) from None
    except RecursionError:
        raise Invalid([_json_invalid(0, _TOO_DEEP)]) from None


def _parse_int(digits: str) -> int:
    return int(digits[:_INT_MAX_DIGITS])  # still out of every range; properties are kept as text


_decode_json = json.JSONDecoder(parse_int=_parse_int).decode


class TooDeep(Invalid):
    """The only fault of the body: properties are nested more than ``limit`` levels deep."""

    def __init__(self, limit: int) -> None:
        super().__init__([_json_invalid("properties", f"Nested more than {limit} levels deep")])


def _check_strict_json(body: bytes, value: Any) -> None:
    """Refuse what json.loads accepts but the column can't keep as JSON: NaN, lone surrogates, bad UTF-8."""
    with _faults_of_strict_json(body, value):
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)


@contextmanager
def _faults_of_strict_json(body: bytes, value: Any) -> Iterator[None]:
    """Turn msgspec's errors into Invalid. If the ``value`` of the body is known, a lone surrogate gets its place."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise Invalid([_bad_utf8(error)]) from None
    except RecursionError:
        raise Invalid([_json_invalid(0, _TOO_DEEP)]) from None
    except msgspec.DecodeError as error:
        if fault := _lone_surrogate(value):
            raise Invalid([fault]) from None
        reason, _, place = str(error).removeprefix("JSON is malformed: ").rpartition(" (byte ")
        byte = int(place.rstrip(")")) if reason else 0
        raise Invalid([_json_invalid(len(body[:byte].decode(errors="replace")), reason or str(error))]) from None


def _lone_surrogate(value: Any) -> ErrorItem | None:
    """An item for the first string that is not Unicode, in pydantic's words: it has them only for bounded strings."""
    loc: list[int | str] = ["body"]
    inside: list[Iterator[tuple[int | str, Any]]] = []  # for each level of loc, the members still to be looked at
    while True:
        if isinstance(value, str) and _SURROGATES.search(value):
            return {"type": "string_unicode", "loc": loc, "msg": _NOT_UNICODE, "input": _printable(value)}
        if isinstance(value, dict):
            inside.append(iter(value.items()))
            loc.append("")
        elif isinstance(value, list):
            inside.append(iter(enumerate(value)))
            loc.append("")
        while True:
            if not inside:
                return None
            if member := next(inside[-1], None):
                break
            inside.pop()
            loc.pop()
        loc[-1], value = member
        if isinstance(key := loc[-1], str) and _SURROGATES.search(key):
            return {"type": "string_unicode", "loc": loc[:-1], "msg": _NOT_UNICODE, "input": _printable(key)}


def _missing() -> ErrorItem:
    return {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}


def _json_invalid(place: int | str, reason: str) -> ErrorItem:
    return {
        "type": "json_invalid",
        "loc": ["body", place],
        "msg": "JSON decode error",
        "input": {},
        "ctx": {"error": reason},
    }


def _item(error: dict[str, Any], texts: Mapping[int, bytes]) -> ErrorItem:
    nested = isinstance(error["input"], dict | list) and texts.get(id(error["input"]))
    echo = _cut(nested) if nested else _printable(error["input"])
    item = {name: error[name] for name in ("type", "loc", "msg")} | {"input": echo}
    item["loc"] = ["body", *error["loc"]]
    if "ctx" in error:
        item["ctx"] = _printable(error["ctx"])
    return item


def _bad_utf8(error: UnicodeDecodeError) -> ErrorItem:
    return _json_invalid(error.start, f"Invalid UTF-8: {error.reason}")


def _printable(value: Any) -> Any:
    """``value`` in a form that fits strict JSON, cut if it is long."""
    try:
        length = len(encoded := orjson.dumps(value))
    except (TypeError, RecursionError):  # lone surrogates, integers beyond 64 bits, deep nesting
        try:
            length = len(encoded := json.dumps(value).encode())
        except RecursionError:
            return _CUT
    if length <= INPUT_MAX_BYTES:
        try:
            return _clean(value)
        except RecursionError:  # a thousand brackets
            return _CUT
    return _cut(value.encode("utf-8", "replace") if isinstance(value, str) else encoded)


def _cut(text: bytes) -> str:
    return text[:INPUT_MAX_BYTES].decode(errors="ignore") + _CUT


_CUT = "…"
_SURROGATES = re.compile("[\ud800-\udfff]")


def _clean(value: Any) -> Any:
    """A small value in strict JSON: lone surrogates become U+FFFD, NaN and infinities null."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_clean(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return value
