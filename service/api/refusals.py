"""The refusals of late, in memory: what was refused, of whom, and why, in the words that the client was given.

Refusals that are alike are one entry with a count, so that one client that tries again and again does not push out all
others. Nothing of a body is kept, and of an access token only its name. See docs/adr/0016-recent-refusals.md.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiohttp import web

from schemas.refusals import ErrorItem
from service.api.auth import authorize
from service.api.respond import iso, json_response
from service.api.state import STATES, Kind, States

#: So many kinds of refusals are remembered, and so many characters of a reason.
MOST = 100
REASON_MAX_LENGTH = 200


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

    Without numbers of events and positions, so that the same fault in another event is the same reason.
    """
    first, *more = errors
    place = ".".join("*" if isinstance(part, int) else part for part in first["loc"]).removesuffix(".*")
    return f"{place}: {first['msg']}{' (and more)' if more else ''}"


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
