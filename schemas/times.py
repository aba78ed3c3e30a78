"""Times: of events as sent to whole microseconds since 1970, and back to text as the contract writes it."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from pydantic import TypeAdapter

from schemas.events import EventTime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND, _MILLISECOND = timedelta(microseconds=1), timedelta(milliseconds=1)
_SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.", re.ASCII)
validate_time = TypeAdapter(EventTime).validate_python


def microseconds(time: datetime) -> int:
    """Whole µs since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def iso(time: datetime | int) -> str:
    """A UTC time, or µs since 1970, as the contract writes it: with milliseconds and Z."""
    return _iso_of_millisecond((microseconds(time) if isinstance(time, datetime) else time) // 1000)


@lru_cache(maxsize=256)  # under load many requests share a millisecond
def _iso_of_millisecond(millisecond: int) -> str:
    return (_EPOCH + _MILLISECOND * millisecond).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def microseconds_as_sent(sent: str | int | float) -> int:
    """Whole µs since 1970 of a time as sent. Raises ValidationError if pydantic refuses it.

    Seconds in the usual form are remembered; pydantic reads everything else.
    """
    if type(sent) is str:
        usual = sent[:19] + ".000Z" if sent[19:] == "Z" else sent
        second, rest = usual[:20], usual[20:]
        if rest in MILLISECONDS and _SECOND.fullmatch(second):
            if second not in SECONDS:
                if len(SECONDS) >= SECONDS_MAX:
                    SECONDS.clear()
                SECONDS[second] = microseconds(validate_time(second + "0Z"))
            return SECONDS[second] + MILLISECONDS[rest]
    return microseconds(validate_time(sent))


#: µs since 1970 of recently seen times ``YYYY-MM-DDTHH:MM:SS.``, and of ``000Z`` to ``999Z``: together, the form that
#: browsers write.
SECONDS: dict[str, int] = {}
SECONDS_MAX = 4096
MILLISECONDS = {f"{number:03}Z": number * 1000 for number in range(1000)}
