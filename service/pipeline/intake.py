"""From a request's body to durable rows and the answer to the client."""

import asyncio
import time
from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from schemas.parse import ParsedBatch, ParsedEvent, parse_batch, parse_batch_leniently, parse_event
from schemas.payload import EncodedRows
from schemas.rows import derive_event_id, first_id, id_text, make_rows
from schemas.times import iso
from schemas.validation_errors import ErrorItem
from service.errors import Shed, SpoolFailed, Unavailable
from service.part import Part
from service.pipeline.rate_limit import RateLimit
from service.pipeline.writer import BatchWriter

#: A larger body is parsed on a thread: the worst of that size takes as long as hundreds of usual requests.
AT_ONCE_MAX_BYTES = 2**18

Parsed = TypeVar("Parsed")


class Accepted(NamedTuple):
    """What a request brought: rows to be made durable, and the answer that is true once they are.

    ``refused``: how many events of a batch request were not taken, by reason.
    """

    rows: EncodedRows
    answer: Mapping[str, Any]
    headers: Mapping[str, str] = {}
    refused: Mapping[str, int] = {}


class Intake(Part):
    """Turns bodies into rows and answers, and keeps the rows.

    ``key`` is the Idempotency-Key; ``source`` is the name of the access token, whose rate limit counts only events that
    are kept.
    """

    def __init__(self, writer: BatchWriter, rate_limit: RateLimit | None) -> None:
        self.writer = writer
        self.rate_limit = rate_limit
        self._parser = ThreadPoolExecutor(1, "parser")  # one: several would hold up the event loop longer

    async def close(self) -> None:
        """Stop parsing."""
        self._parser.shutdown(wait=False)

    def check_rate(self, source: str) -> None:
        """Raise RateLimited if this token must wait."""
        if self.rate_limit:
            self.rate_limit.check(source)

    def event(self, source: str, body: bytes, key: str | None = None) -> Accepted:
        """One event, parsed at once. Raises Invalid, RequestError."""
        return self.accept_event(source, parse_event(body), key)

    def accept_event(self, source: str, event: ParsedEvent, key: str | None = None) -> Accepted:
        """One event. Raises RequestError."""
        if event.priority in self.writer.shed_priorities():
            raise Shed(retry_after=self.writer.seconds_to_room())
        now = time.time_ns() // 1000
        rows = make_rows(ParsedBatch([event]), source=source, received_at=now, derived_ids=_derived(source, key, [0]))
        ack = {
            "success": True,
            "event_id": id_text(first_id(rows)),
            "message": "Event accepted",
            "timestamp": iso(now),
        }
        return Accepted(rows, ack)

    def batch(self, source: str, body: bytes, key: str | None = None, *, lenient: bool = False) -> Accepted:
        """Up to 100 events, parsed at once. Raises Invalid, RequestError."""
        return self.accept_batch(source, *batch_parser(lenient)(body), key, lenient=lenient)

    def accept_batch(
        self, source: str, batch: ParsedBatch, errors: list[ErrorItem], key: str | None = None, *, lenient: bool = False
    ) -> Accepted:
        """The valid events of a batch, with the ``errors`` of the others. Raises RequestError.

        Near the spool's cap only events of higher priorities are taken: there may be no rows.
        """
        invalid = {item["loc"][2] for item in errors}
        received = len(batch.events) + len(invalid)
        places = [place for place in range(received) if place not in invalid]
        headers = {"Preference-Applied": "handling=lenient"} if lenient else {}
        refused_by = {"invalid": len(invalid)} if invalid else {}
        if shed := self.writer.shed_priorities():
            retry_after = Shed(retry_after=self.writer.seconds_to_room())
            places, refused = _shed(batch, places, shed)
            if refused and not places:
                raise retry_after
            if refused:
                errors += refused
                headers |= retry_after.headers
                refused_by["shed"] = len(refused)
        now = time.time_ns() // 1000
        rows = make_rows(batch, source=source, received_at=now, derived_ids=_derived(source, key, places))
        failed = received - len(rows)
        ack = {
            "success": bool(rows),
            "events_received": received,
            "events_queued": len(rows),
            "events_failed": failed,
            "message": f"{failed} of {received} events were not taken" if failed else "Batch accepted",
            "timestamp": iso(now),
        }
        return Accepted(rows, ack | ({"errors": errors} if errors else {}), headers, refused_by)

    async def parse(self, parser: Callable[[bytes], Parsed], body: bytes) -> Parsed:
        """Parse the body, on a thread if it may take long. Raises Invalid."""
        if len(body) <= AT_ONCE_MAX_BYTES:
            return parser(body)
        return await asyncio.get_running_loop().run_in_executor(self._parser, parser, body)

    async def add(self, source: str, rows: EncodedRows, size: int) -> None:
        """As ``BatchWriter.add``."""
        self._charge(source, len(rows))
        try:
            await self.writer.add(rows, size)
        except Unavailable:
            self._charge(source, -len(rows))
            raise

    def put(self, source: str, rows: EncodedRows, size: int, done: Callable[[SpoolFailed | None], object]) -> None:
        """As ``BatchWriter.put``."""
        if self.rate_limit:
            done = partial(self._on_done, source, len(rows), done)
        self.writer.put(rows, size, done)
        self._charge(source, len(rows))

    def _on_done(
        self, source: str, events: int, done: Callable[[SpoolFailed | None], object], error: SpoolFailed | None
    ) -> None:
        if error:
            self._charge(source, -events)
        done(error)

    def _charge(self, source: str, events: int) -> None:
        if self.rate_limit:
            self.rate_limit.take(source, events)


def batch_parser(lenient: bool) -> Callable[[bytes], tuple[ParsedBatch, list[ErrorItem]]]:
    return parse_batch_leniently if lenient else _parse_whole_batch


def _parse_whole_batch(body: bytes) -> tuple[ParsedBatch, list[ErrorItem]]:
    return parse_batch(body), []


def _shed(batch: ParsedBatch, places: list[int], shed: Set[str]) -> tuple[list[int], list[ErrorItem]]:
    """Remove the events of these priorities from the batch; return the places of the others, and the errors."""
    kept, errors = [], []
    for event, place in zip(batch.events, places, strict=True):
        if event.priority in shed:
            reason = f"The spool is nearly full, and events of priority {event.priority} are not taken"
            errors.append({"type": "shed", "loc": ["body", "events", place], "msg": reason, "input": event.priority})
        else:
            kept.append(place)
    batch.events = [event for event in batch.events if event.priority not in shed]
    return kept, errors


def _derived(source: str, key: str | None, places: list[int]) -> list[bytes] | None:
    """The ids of a request with an Idempotency-Key, made from the key, the client's token and each event's place."""
    return None if key is None else [derive_event_id(source, key, place) for place in places]
