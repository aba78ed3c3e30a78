"""What a failure of ClickHouse means: it passes, a person must mend something, or these rows will never fit."""

import logging
import os
import re
import ssl
import textwrap

from clickhouse_connect.driver.exceptions import ClickHouseError, DataError

from service.errors import Misconfigured, Rejected, Retryable, StoreError

_log = logging.getLogger(__name__)

# Error codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
#: These rows will never fit.
REJECTED = frozenset({
    6,  # CANNOT_PARSE_TEXT
    25, 26, 27,  # CANNOT_PARSE_ESCAPE_SEQUENCE, CANNOT_PARSE_QUOTED_STRING, CANNOT_PARSE_INPUT_ASSERTION_FAILED
    33,  # CANNOT_READ_ALL_DATA
    38, 41, 72,  # CANNOT_PARSE_DATE, CANNOT_PARSE_DATETIME, CANNOT_PARSE_NUMBER
    53, 69, 70,  # TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE
    117,  # INCORRECT_DATA
    131,  # TOO_LARGE_STRING_SIZE
    321, 349,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    376,  # CANNOT_PARSE_UUID
    407, 469,  # DECIMAL_OVERFLOW, VIOLATED_CONSTRAINT
    691,  # UNKNOWN_ELEMENT_OF_ENUM
})  # fmt: skip
#: A person must mend something; until then every batch waits.
MISCONFIGURED = {
    16: "a column is missing", 47: "a column is missing",  # NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER
    60: "a table is missing", 81: "the database is missing",  # UNKNOWN_TABLE, UNKNOWN_DATABASE
    115: "a setting is not known", 164: "the user may only read",  # UNKNOWN_SETTING, READONLY
    192: "the user is refused", 193: "the password is refused",  # UNKNOWN_USER, WRONG_PASSWORD
    194: "a password is required", 195: "our address is refused",  # REQUIRED_PASSWORD, IP_ADDRESS_NOT_ALLOWED
    497: "the user lacks rights", 516: "the user or the password is refused",  # ACCESS_DENIED, AUTHENTICATION_FAILED
}  # fmt: skip
#: Passes by itself. What is in none of the three sets is treated like these, and logged as an error.
RETRYABLE = frozenset({
    44,  # ILLEGAL_COLUMN: a column was altered since we looked; the next try has the values converted
    3, 23, 74, 75,  # UNEXPECTED_END_OF_FILE, cannot read from or write to a file descriptor or a buffer
    159, 160, 201, 202,  # TIMEOUT_EXCEEDED, TOO_SLOW, QUOTA_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES
    209, 210, 225, 236,  # SOCKET_TIMEOUT, NETWORK_ERROR, NO_ZOOKEEPER, ABORTED
    241, 242, 243, 252,  # MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, TOO_MANY_PARTS
    279, 285, 286, 319,  # ALL_CONNECTION_TRIES_FAILED, too few live replicas, quorum, UNKNOWN_STATUS_OF_INSERT
    394, 425, 999,  # QUERY_WAS_CANCELLED, SYSTEM_ERROR, KEEPER_EXCEPTION
})  # fmt: skip
UNKNOWN_DATABASE = 81
_TOO_MANY_PARTS = 252
#: What messages hold besides their meaning: addresses, versions, ids of tables and values of events. The log and the
#: quarantine keep the rest.
_NOT_FOR_PEOPLE = re.compile(
    r"^Received ClickHouse exception, code: \d+, server response: "
    r"|\s*\((?:for url|version) [^()]*(?:\([^()]*\))?[^()]*\)|\s*\(?for url \S+\)?"
    r"|\s*\([0-9a-f]{8}-[0-9a-f-]{27}\)|\.? Column values:.*(?= \([A-Z_]+\)$)|\.? Column values:.*$"
)
_MESSAGE_MAX = 300


def code_of(error: BaseException) -> int:
    """ClickHouse's own code, 0 if there is none."""
    return int(getattr(error, "code", None) or 0)


def verdict_on(error: Exception) -> StoreError:
    """What a failure means for the batch."""
    code = code_of(error)
    message = _NOT_FOR_PEOPLE.sub("", " ".join(str(error).split())) or type(error).__name__
    message = textwrap.shorten(message, _MESSAGE_MAX, placeholder=" …")
    if "while pushing to view" in str(error):
        # The rows are stored and only the view failed: sent again with this token, they are not stored again, and
        # the view gets them. Any other token would double them.
        return Misconfigured(message, code, public=f"a view behind the table fails{_in_log(code)}")
    if code in REJECTED or (code == _TOO_MANY_PARTS and "partitions for single INSERT" in message):
        return Rejected(message, code, public=f"ClickHouse does not take the rows{_in_log(code)}")
    if code in MISCONFIGURED:
        return Misconfigured(message, code, public=f"ClickHouse says no: {MISCONFIGURED[code]}{_in_log(code)}")
    if not code and isinstance(error, (DataError, UnicodeError, OverflowError)):
        return Rejected(f"the driver can't encode the rows: {message}", public="the driver can't encode the rows")
    if not code and (network := _network_reason(error)):
        return Retryable(f"ClickHouse can't be reached: {network}")
    if not isinstance(error, ClickHouseError):
        message = f"{type(error).__name__}: {message}"
    if code not in RETRYABLE and (code or not isinstance(error, ClickHouseError)):
        _log.error("an error of no known class, taken to pass by itself: %s", message)
    return Retryable(message, code, public=f"ClickHouse can't do it now{_in_log(code)}")


def _in_log(code: int) -> str:
    return f" (code {code}; the log says more)" if code else " (the log says more)"


def _network_reason(error: BaseException | None) -> str | None:
    """What the operating system said, behind the layers of the driver; without the address."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return f"TLS failed ({error.reason or 'for no reason that is known'})"
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno) if error.errno > 0 else "its name can't be resolved"
        error = error.__cause__ or error.__context__
    return None
