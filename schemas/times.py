"""Times of events as sent → whole microseconds since 1970, those of the usual form without pydantic."""

import re
from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter

from schemas.events import EventTime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.", re.ASCII)
validate_time = TypeAdapter(EventTime).validate_python


def microseconds(time: datetime) -> int:
    """Whole µs since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def microseconds_as_sent(sent: str | int | float) -> int:
    """Whole µs since 1970 of a time as sent. Raises ValidationError if pydantic refuses it.

    Seconds in the usual form are remembered; the rest is read by pydantic.
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


#: µs since 1970 of the times ``YYYY-MM-DDTHH:MM:SS.`` seen of late, and of ``000Z`` to ``999Z``. Together they are
#: what browsers write.
SECONDS: dict[str, int] = {}
SECONDS_MAX = 4096
MILLISECONDS = {f"{number:03}Z": number * 1000 for number in range(1000)}
