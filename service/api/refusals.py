"""The refusals of late, in memory: what was refused, of whom, and why, in the words that the client was given.

Refusals that are alike are one entry with a count, so that one client that tries again and again does not push out all
others. Nothing of a body is kept, and of an access token only its name. See docs/adr/0016-recent-refusals.md.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiohttp import web

from schemas.events import Event, EventBatch
from schemas.refusals import ErrorItem
from service.api.peers import STATES, Kind, States
from service.edge.auth import authorize
from service.edge.responses import iso, json_response

#: So many kinds of refusals are remembered, and so many characters of a reason.
MOST = 100
REASON_MAX_LENGTH = 200
#: In the place of a fault, for the keys that clients made up.
_UNNAMED = "…"


class Refusal(NamedTuple):
    """What refusals that are alike have in common."""

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
        self._seen: OrderedDict[Refusal, Seen] = OrderedDict()  # the one seen last is the last one

    def add(self, method: str, route: str, status: int, reason: str, token: str | None) -> None:
        """Remember a refusal. ``route`` is a path as it is registered, ``token`` the name of a known token."""
        refusal, now = Refusal(method, route, status, _cut(reason), token), self._clock()
        seen = self._seen.pop(refusal, Seen(0, now, now))
        self._seen[refusal] = Seen(seen.times + 1, seen.first_at, now)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def entries(self) -> list[tuple[Refusal, Seen]]:
        """All that are remembered, the last one last."""
        return list(self._seen.items())


REFUSALS: web.AppKey[Refusals] = web.AppKey("refusals", Refusals)


async def get_refusals(request: web.Request) -> web.Response:
    """The refusals of late, of all workers, the last one first."""
    authorize(request, "read")
    return json_response({
        "as_of": iso(datetime.now(UTC)),
        "refusals": await request.app[STATES].merged("refusals"),
    })  # fmt: skip


def reason_of(errors: Iterable[ErrorItem]) -> str:
    """Why a body is not valid, in a line: the first fault with its place, and how many more there are.

    Without what the client made up, so that nothing of it is told, and the same fault elsewhere is the same reason: of
    the place only what the contract names, no numbers of events and positions; of the message no part of the input.
    """
    first, *more = errors
    message = first["msg"]
    for name in _OF_THE_INPUT & first.get("ctx", {}).keys():
        detail = str(first["ctx"][name])
        message = message.replace(detail, _MADE_UP.sub("*", detail))
    return f"{_place(*first['loc'])}: {message}{' (and more)' if more else ''}"


#: What pydantic's messages say of the input: how long a list is, which character is where in an id.
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
    """Why some events of a request were not taken, while others were: in the words of the metrics."""
    return f"Some of the events were not taken: {', '.join(sorted(refused))}"


def _cut(text: str) -> str:
    return text if len(text) <= REASON_MAX_LENGTH else f"{text[: REASON_MAX_LENGTH - 1]}…"


def _own_refusals(app: web.Application) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    return [(tuple(refusal), tuple(seen)) for refusal, seen in app[REFUSALS].entries()]  # plain, for orjson


def _merge_refusals(states: States) -> list[dict[str, Any]]:
    merged: dict[Refusal, Seen] = {}
    for entries in states.known.values():
        for kind, seen in entries:
            refusal, new = Refusal(*kind), Seen(*seen)
            old = merged.get(refusal, new._replace(times=0))
            first_at, last_at = min(old.first_at, new.first_at), max(old.last_at, new.last_at)
            merged[refusal] = Seen(old.times + new.times, first_at, last_at)
    latest = sorted(merged.items(), key=lambda item: item[1].last_at, reverse=True)[:MOST]
    return [
        {
            **refusal._asdict(),
            "count": seen.times,
            "first_at": iso(datetime.fromtimestamp(seen.first_at, UTC)),
            "last_at": iso(datetime.fromtimestamp(seen.last_at, UTC)),
        }
        for refusal, seen in latest
    ]


REFUSALS_OF_ALL = Kind(_own_refusals, _merge_refusals)
