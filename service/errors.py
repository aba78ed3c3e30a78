"""Every error that a client, an operator or the flusher can meet.

    AnalyticsError
    ├── StartError                  the process can't start; one line for the operator, exit code 1
    ├── RequestError                becomes an HTTP answer: status, public detail, headers
    │   ├── BadRequest          400 the body can't be read (its encoding is broken)
    │   │   └── BadFraming      400 it is not certain where the request ends: the connection is closed
    │   ├── Unauthorized        401 no token, or an unknown one
    │   ├── Forbidden           403 the token lacks the scope
    │   ├── BodyTimeout         408 the body did not arrive in time
    │   ├── BodyTooLarge        413 larger than the limit, as sent or unpacked
    │   ├── UnsupportedEncoding 415 a Content-Encoding that is not supported
    │   ├── RateLimited         429 the token sends more than it may: send again after Retry-After
    │   └── Unavailable         503 no promise was made: send again after Retry-After
    │       ├── SpoolFull           the spool has no room for the events
    │       │   └── Shed            for events of this priority, since it is nearly full
    │       ├── SpoolFailed         the disk refused the events
    │       ├── Overloaded          too much is in flight already
    │       ├── Stopping            the service is shutting down
    │       └── StoreUnavailable    ClickHouse can't answer a query now
    ├── SqlError                    a query of an analyst failed or is refused, in ClickHouse's words
    └── StoreError                  ClickHouse did not do what it was asked
        ├── Retryable               temporary: keep the batch, try it again with the same token
        │   ├── Misconfigured       needs a person: wrong password, missing table, no rights
        │   ├── ViewFailed          a materialized view behind the table failed; the table has the rows
        │   └── InFlight            an INSERT without an answer may still reach the table
        └── Rejected                these rows will never fit

An invalid body is not in this tree: ``schemas.validation_errors.Invalid`` is answered with 422 and the
contract's list of faults. A test compares this tree with docs/errors.md.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

#: The exit code after a bug; ``sysexits.h`` calls it EX_SOFTWARE.
FAILED = 70


class AnalyticsError(Exception):
    """The root: whatever this service raises on purpose."""


class StartError(AnalyticsError):
    """The process can't start. The message is one line that says what is wrong and what to do."""


def start_refused(error: OSError) -> StartError:
    """The error that ends a start because a system call failed that always works on a sound disk."""
    where = f" at {error.filename}" if error.filename else ""
    return StartError(f"the system refuses{where} ({error.strerror or error}): mend the disk")


class RequestError(AnalyticsError):
    """An error that is an HTTP answer. ``detail`` is public: it names no token, path or host."""

    status: ClassVar[int] = 400
    #: Whether the connection must be closed: bytes of this request may still come.
    closes: ClassVar[bool] = False
    detail: Any = "Bad request"

    def __init__(self, detail: Any = None, headers: Mapping[str, str] | None = None) -> None:
        if detail is not None:
            self.detail = detail
        self.headers = dict(headers or {})
        super().__init__(self.detail)


class BadRequest(RequestError):
    """The body's encoding is broken."""


class BadFraming(BadRequest):
    """It is not certain where the request ends: a proxy may have read it differently."""

    closes = True
    detail = "The request's framing is malformed"


class Unauthorized(RequestError):
    """No token, or an unknown one."""

    status = 401
    detail = "Not authenticated"

    def __init__(self, detail: Any = None) -> None:
        super().__init__(detail, {"WWW-Authenticate": "Bearer"})


class Forbidden(RequestError):
    """The token is known but lacks the scope."""

    status = 403
    detail = "The token lacks the scope for this"


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    status = 408
    closes = True
    detail = "The body did not arrive in time"


class BodyTooLarge(RequestError):
    """The body is over the limit, as sent or unpacked."""

    status = 413
    detail = "The body is too large"


class UnsupportedEncoding(RequestError):
    """A Content-Encoding that is not supported."""

    status = 415
    detail = "Content-Encoding must be gzip, zstd or identity"


class RateLimited(RequestError):
    """The token sends more events a second than it may. ``retry_after`` is in seconds."""

    status = 429
    detail = "Too many events with this token; nothing of this request was kept"

    def __init__(self, *, retry_after: float) -> None:
        super().__init__(None, {"Retry-After": str(max(1, math.ceil(retry_after)))})


class Unavailable(RequestError):
    """No promise was made: send the same again after ``retry_after`` seconds."""

    status = 503
    detail = "Try again later"

    def __init__(self, detail: Any = None, *, retry_after: float = 1.0) -> None:
        super().__init__(detail, {"Retry-After": str(max(1, math.ceil(retry_after)))})


class SpoolFull(Unavailable):
    """The spool has no room for the events."""

    detail = "The spool is full; nothing of this request was kept"


class Shed(SpoolFull):
    """The spool is nearly full and takes only events of higher priority."""

    detail = "The spool is nearly full and takes events of higher priority only; nothing of this request was kept"


class SpoolFailed(Unavailable):
    """The disk refused the events."""

    detail = "The events could not be written to disk; nothing of this request was kept"


class Overloaded(Unavailable):
    """The bodies of other requests take all memory that bodies may take."""

    detail = "Too much is in flight; nothing of this request was kept"


class Stopping(Unavailable):
    """The service is shutting down."""

    detail = "The service is stopping; nothing of this request was kept"


class StoreUnavailable(Unavailable):
    """ClickHouse can't answer a query now."""

    detail = "ClickHouse can't answer now"


class SqlError(AnalyticsError):
    """A query of an analyst failed, or is refused. The message is public and has the form of ClickHouse's own."""

    def __init__(self, code: int, message: str, name: str = "") -> None:
        self.code = code
        if not message.startswith("Code: "):
            message = f"Code: {code}. DB::Exception: {message}."
            message += f" ({name})" if name else ""
        super().__init__(message)


class StoreError(AnalyticsError):
    """ClickHouse did not do what it was asked. ``code`` is ClickHouse's own, 0 where there is none.

    The message is for the log. ``public`` is for everybody: it names no user, host, path, table or value. It defaults
    to the message, since words of our own are public.
    """

    def __init__(self, message: str, code: int = 0, *, public: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.public = message if public is None else public


class Retryable(StoreError):
    """May be temporary. It is safe to send the same bytes with the same token again.

    ``may_run``: the statement's outcome is unknown, so ClickHouse may still be running it.
    """

    def __init__(self, message: str, code: int = 0, *, public: str | None = None, may_run: bool = False) -> None:
        super().__init__(message, code, public=public)
        self.may_run = may_run


class Misconfigured(Retryable):
    """Needs a person to mend something: a password, a missing table or column, rights."""


class ViewFailed(Retryable):
    """A materialized view behind the table failed. ClickHouse still stores the rows in the table."""


class InFlight(Retryable):
    """Another batch's INSERT, which got no answer, may still reach the table, so this batch must wait."""


class Rejected(StoreError):
    """ClickHouse will never take these rows."""
