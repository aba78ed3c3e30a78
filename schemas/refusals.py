"""What is wrong with a body, in the words that FastAPI with the same pydantic models would use.

Runs only after the fast way in ``schemas.parse`` did not take a body, so it may be slow. Where
FastAPI itself falls over or keeps what can't be stored (invalid UTF-8, lone surrogates, NaN), the
answer is one ``json_invalid`` item in the same form.
"""

import json
import math
import re
from typing import Any, TypeVar

import msgspec
import orjson
from pydantic import BaseModel, ValidationError

#: One entry of the contract's ``detail``: type, loc, msg, input and perhaps ctx.
ErrorItem = dict[str, Any]
#: An echoed input longer than this, as JSON, is cut to it.
INPUT_MAX_BYTES = 1024

_TOO_DEEP = "Nested too deep"
_INT_MAX_DIGITS = 4300
_NOT_UNICODE = "Input should be a valid string, unable to parse raw data as a unicode string"

Model = TypeVar("Model", bound=BaseModel)


class Invalid(Exception):
    """The body is refused; ``errors`` says why, item by item."""

    def __init__(self, errors: list[ErrorItem]) -> None:
        super().__init__(f"{len(errors)} validation errors")
        self.errors = errors


def check(body: bytes, model: type[Model], *, strict_json: bool = True) -> Model:
    """``body`` as a ``model``, read by FastAPI's steps and then by strict JSON's rules. Raises Invalid."""
    if not body:
        raise Invalid([_missing()])
    try:
        # surrogatepass, as json.loads(bytes) has it: then pydantic names the field that holds the surrogate
        value = json.loads(body.decode("utf-8", "surrogatepass"), parse_int=_parse_int)
    except UnicodeDecodeError as error:
        raise Invalid([_bad_utf8(error)]) from None
    except json.JSONDecodeError as error:
        raise Invalid([_json_invalid(error.pos, error.msg)]) from None
    except RecursionError:
        raise Invalid([_json_invalid(0, _TOO_DEEP)]) from None
    try:
        valid = model.model_validate(value, from_attributes=True)
    except ValidationError as error:
        raise Invalid([_item(dict(item)) for item in error.errors(include_url=False)]) from None
    if strict_json:
        _check_strict_json(body, value)
    return valid


def _parse_int(digits: str) -> int | float:
    # int() refuses more digits than this; whoever wants the number itself has the text of properties
    return int(digits) if len(digits) <= _INT_MAX_DIGITS else float(digits)


def too_deep(limit: int) -> list[ErrorItem]:
    """The item for properties nested beyond ``limit`` levels."""
    return [_json_invalid("properties", f"Nested more than {limit} levels deep")]


def wrong_type_of_properties() -> list[ErrorItem]:
    """A placeholder that sends the body to ``check``, which words this better."""
    return [_json_invalid("properties", "Not an object")]


def _check_strict_json(body: bytes, value: Any) -> None:
    """Refuse what json.loads lets pass and the column could not keep as JSON: NaN, lone surrogates, bad UTF-8."""
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
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
    places: list[tuple[list[int | str], Any]] = [(["body"], value)]
    while places:
        loc, value = places.pop()
        if isinstance(value, str) and _SURROGATES.search(value):
            return {"type": "string_unicode", "loc": loc, "msg": _NOT_UNICODE, "input": _printable(value)}
        if isinstance(value, dict):
            for key, one in reversed(value.items()):
                places.append(([*loc, _SURROGATES.sub("\ufffd", key)], one))
                places.append((loc, key))
        elif isinstance(value, list):
            places += reversed([([*loc, index], one) for index, one in enumerate(value)])
    return None


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


def _item(error: dict[str, Any]) -> ErrorItem:
    item = {name: error[name] for name in ("type", "loc", "msg")} | {"input": _printable(error["input"])}
    item["loc"] = ["body", *error["loc"]]
    if "ctx" in error:
        item["ctx"] = _printable(error["ctx"])
    return item


def _bad_utf8(error: UnicodeDecodeError) -> ErrorItem:
    return _json_invalid(error.start, f"Invalid UTF-8: {error.reason}")


def _printable(value: Any) -> Any:
    """``value`` as strict JSON can carry it, cut if it is long."""
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
    cut = value.encode("utf-8", "replace") if isinstance(value, str) else encoded
    return cut[:INPUT_MAX_BYTES].decode(errors="ignore") + _CUT


_CUT = "…"
_SURROGATES = re.compile("[\ud800-\udfff]")


def _clean(value: Any) -> Any:
    """A small value without what JSON has no word for: lone surrogates become U+FFFD, NaN and infinities null."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_clean(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return value
