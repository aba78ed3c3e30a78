"""Recent refusals, in memory: which requests were refused, whose, and why, in the words of the answer.

Similar refusals are one entry with a count, so that a client that tries again and again does not push out all others.
No part of a body is kept, and only the name of an access token. See docs/adr/0016-recent-refusals.md.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from schemas.events import Event, EventBatch
from schemas.validation_errors import ErrorItem

#: How many kinds of refusals we remember, and how many characters of a reason.
MOST = 100
REASON_MAX_LENGTH = 200
#: Stands for keys that clients made up, in the place of a fault.
_UNNAMED = "…"


class Refusal(NamedTuple):
    """What similar refusals have in common."""

    method: str
    route: str
    status: int
    reason: str
    token: str | None


class Seen(NamedTuple):
    """How often, and when first and last, in seconds since 1970."""

    times: int
    first_at: float
    last_at: float


class Refusals:
    """The last ``most`` kinds of refusals. Belongs to the event loop."""

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.time) -> None:
        self._most = most
        self._clock = clock
        self._seen: OrderedDict[Refusal, Seen] = OrderedDict()  # in the order in which they were last seen

    def add(self, method: str, route: str, status: int, reason: str, token: str | None) -> None:
        """Remember a refusal. ``route`` is the registered path, ``token`` the name of a known access token."""
        refusal, now = Refusal(method, route, status, _cut(reason), token), self._clock()
        seen = self._seen.pop(refusal, Seen(0, now, now))
        self._seen[refusal] = Seen(seen.times + 1, seen.first_at, now)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def entries(self) -> list[tuple[Refusal, Seen]]:
        """All that we remember, the latest last."""
        return list(self._seen.items())


def reason_of(errors: Iterable[ErrorItem]) -> str:
    """Why a body is not valid, in a line: the first fault with its place, and whether there are more.

    Nothing that the client made up is in it, so that no input leaks and the same fault elsewhere gives the same reason:
    the place has only names of the contract, no indices; the message has no part of the input.
    """
    first, *more = errors
    message = first["msg"]
    for name in _OF_THE_INPUT & first.get("ctx", {}).keys():
        detail = str(first["ctx"][name])
        message = message.replace(detail, _MADE_UP.sub("*", detail))
    return f"{_place(*first['loc'])}: {message}{' (and more)' if more else ''}"


#: The parts of pydantic's messages that tell something of the input: a list's length, a character in an id.
_OF_THE_INPUT = {"actual_length", "error"}
_MADE_UP = re.compile(r"`[^`]*`|`|\d+")
_NAMES = {*Event.model_fields, *EventBatch.model_fields}


def _place(root: str, *path: int | str) -> str:
    shown = [root]
    if path[:1] == ("events",):
        of_one = len(path) > 1 and isinstance(path[1], int)
        shown += ["events", "*"] if of_one and len(path) > 2 else ["events"]
        path = path[2 if of_one else 1 :]
    if path and isinstance(path[0], str):
        named = root == "query" or path[0] in _NAMES
        shown.append(path[0] if named else _UNNAMED)
        if named and len(path) > 1:
            shown.append(_UNNAMED)
    return ".".join(shown)


def partly(refused: Iterable[str]) -> str:
    """Why some events of a request were refused and others kept, in the words of the metrics."""
    return f"Some of the events were not taken: {', '.join(sorted(refused))}"


def _cut(text: str) -> str:
    return text if len(text) <= REASON_MAX_LENGTH else f"{text[: REASON_MAX_LENGTH - 1]}…"
