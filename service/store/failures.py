"""What a failure of ClickHouse means: it passes, a person must mend something, or these rows will never fit."""

import logging
import os
import re
import ssl
import textwrap

from clickhouse_connect.driver.exceptions import ClickHouseError, DataError

from service.errors import Misconfigured, Rejected, Retryable, StoreError, ViewFailed

_log = logging.getLogger(__name__)

# Error codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
#: These rows will never fit.
REJECTED = frozenset({
    6, 19,  # CANNOT_PARSE_TEXT, SIZE_OF_FIXED_STRING_DOESNT_MATCH
    25, 26, 27,  # CANNOT_PARSE_ESCAPE_SEQUENCE, CANNOT_PARSE_QUOTED_STRING, CANNOT_PARSE_INPUT_ASSERTION_FAILED
    33,  # CANNOT_READ_ALL_DATA
    38, 41, 72,  # CANNOT_PARSE_DATE, CANNOT_PARSE_DATETIME, CANNOT_PARSE_NUMBER
    53, 69, 70,  # TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE
    117,  # INCORRECT_DATA
    128, 130, 131,  # TOO_LARGE_ARRAY_SIZE, CANNOT_READ_ARRAY_FROM_TEXT, TOO_LARGE_STRING_SIZE
    153, 190, 248,  # ILLEGAL_DIVISION, SIZES_OF_ARRAYS_DONT_MATCH, INVALID_PARTITION_VALUE
    321, 349,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    366, 376, 395,  # SIZES_OF_NESTED_COLUMNS_ARE_INCONSISTENT, CANNOT_PARSE_UUID, FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    407, 441, 467, 469,  # DECIMAL_OVERFLOW, CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING, .._BOOL, VIOLATED_CONSTRAINT
    563, 632, 645,  # CANNOT_READ_MAP_FROM_TEXT, UNEXPECTED_DATA_AFTER_PARSED_VALUE, NUMBER_OF_DIMENSIONS_MISMATCHED
    675, 676, 691,  # CANNOT_PARSE_IPV4, CANNOT_PARSE_IPV6, UNKNOWN_ELEMENT_OF_ENUM
})  # fmt: skip
#: A person must mend something; until then every batch waits.
MISCONFIGURED = {
    16: "a column is missing", 47: "a column is missing",  # NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER
    60: "a table is missing", 81: "the database is missing",  # UNKNOWN_TABLE, UNKNOWN_DATABASE
    164: "the user may only read", 774: "the table can only be read",  # READONLY, TABLE_IS_PERMANENTLY_READ_ONLY
    **dict.fromkeys((115, 452, 471, 472), "a setting is not known or not allowed"),  # UNKNOWN_SETTING, constraints
    # A query passes a limit of the profile, or lacks an index or the query cache that the profile demands.
    **dict.fromkeys((158, 161, 162, 165, 166, 167, 168, 191, 307, 392, 396), "the user's profile does not allow it"),
    **dict.fromkeys((277, 584, 704, 719, 731), "the user's profile does not allow it"),
    192: "the user is refused", 193: "the password is refused",  # UNKNOWN_USER, WRONG_PASSWORD
    194: "a password is required", 195: "our address is refused",  # REQUIRED_PASSWORD, IP_ADDRESS_NOT_ALLOWED
    291: "the user lacks rights", 497: "the user lacks rights",  # DATABASE_ACCESS_DENIED, ACCESS_DENIED
    516: "the user or the password is refused",  # AUTHENTICATION_FAILED
    # A quota that needs a key, an expired user, a refused session, a second factor.
    **dict.fromkeys((496, 720, 763, 767), "the user is refused"),
}  # fmt: skip
#: Temporary. A code in none of the three sets is treated like these, and logged as an error.
RETRYABLE = frozenset({
    44,  # ILLEGAL_COLUMN: a column was altered since we looked; the next try converts the values
    3, 23, 74, 75,  # UNEXPECTED_END_OF_FILE, cannot read from or write to a file descriptor or a buffer
    95, 96, 173, 198, 203, 204,  # socket, memory, DNS_ERROR, NO_FREE_CONNECTION, CANNOT_FSYNC
    159, 160, 201, 202,  # TIMEOUT_EXCEEDED, TOO_SLOW, QUOTA_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES
    209, 210, 225, 236,  # SOCKET_TIMEOUT, NETWORK_ERROR, NO_ZOOKEEPER, ABORTED
    241, 242, 243, 252,  # MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE, TOO_MANY_PARTS
    279, 285, 286, 319,  # ALL_CONNECTION_TRIES_FAILED, too few live replicas, quorum, UNKNOWN_STATUS_OF_INSERT
    218, 254, 265, 364, 373, 384,  # TABLE_IS_DROPPED, no replica, TOO_MANY_REQUESTS, a session or a part is locked
    394, 425, 439, 519, 574,  # QUERY_WAS_CANCELLED, SYSTEM_ERROR, CANNOT_SCHEDULE_TASK; no shard, too much for shards
    677, 692, 700, 733, 735, 738,  # THREAD_WAS_CANCELED, TOO_MANY_MUTATIONS, sessions, restart, cancelled, locked
    745, 749, 762, 776, 777, 778, 999,  # SERVER_OVERLOADED, connections, resources, memory, KEEPER_EXCEPTION
})  # fmt: skip
#: ClickHouse itself does not know the outcome: another server, or Keeper, may still be working on it.
MAY_RUN = frozenset({209, 210, 279, 319, 999})
UNKNOWN_DATABASE, READONLY, SETTING_CONSTRAINT_VIOLATION, ACCESS_DENIED = 81, 164, 452, 497
_TOO_MANY_PARTS = 252
_VIEW_WITHOUT_TARGET = re.compile(r"Target table .{1,300} of view ")
#: What messages hold besides their meaning: addresses, users, versions, ids of tables, values of events. The log and
#: the quarantine keep the rest.
_NOT_FOR_PEOPLE = re.compile(
    r"^Received ClickHouse exception, code: \d+, server response: "
    r"|\s*\((?:for url|version) [^()]*(?:\([^()]*\))?[^()]*\)|\s*\(?for url \S+\)?"
    r"|(?<=DB::Exception: ).{1,200}?: (?=Authentication failed|Cannot execute query in readonly|Not enough privileges)"
    r"|\s*\([0-9a-f]{8}-[0-9a-f-]{27}\)|\.? Column values:.*(?= \([A-Z_]+\)$)|\.? Column values:.*$"
)
_MESSAGE_MAX = 300
#: How ClickHouse names a missing right: with all columns, or "for at least one column".
_MISSING_GRANT = re.compile(
    r"necessary to have the grant (?P<right>[A-Z ]+?)(?:\(.*?\))?(?: for at least one column)?"
    r" on (?P<what>[^\s.]\S*?)\.?\s",
    re.IGNORECASE,
)


def code_of(error: BaseException) -> int:
    """ClickHouse's own code; 0 if there is none."""
    return int(getattr(error, "code", None) or 0)


def classify_failure(error: Exception) -> StoreError:
    """What a failure means for the batch."""
    code = code_of(error)
    message = _NOT_FOR_PEOPLE.sub("", " ".join(str(error).split())) or type(error).__name__
    message = textwrap.shorten(message, _MESSAGE_MAX, placeholder=" …")
    if "while pushing to view" in str(error) or _VIEW_WITHOUT_TARGET.search(str(error)):
        return ViewFailed(message, code, public=f"a view behind the table fails{_in_log(code)}")
    if code in REJECTED or (code == _TOO_MANY_PARTS and "partitions for single INSERT" in message):
        return Rejected(message, code, public=f"ClickHouse does not take the rows{_in_log(code)}")
    if code == ACCESS_DENIED and (missing := _MISSING_GRANT.search(f"{error} ")):
        message = f"a right is missing: GRANT {missing['right']} ON {missing['what']} TO <user> (code 497)"
    if code == SETTING_CONSTRAINT_VIOLATION:
        message += "; the service sends this setting: let the profile of the database user allow it"
    if code in MISCONFIGURED:
        return Misconfigured(message, code, public=f"ClickHouse says no: {MISCONFIGURED[code]}{_in_log(code)}")
    if not code and isinstance(error, (DataError, UnicodeError, OverflowError)):
        return Rejected(f"the driver can't encode the rows: {message}", public="the driver can't encode the rows")
    if not code and (network := _network_reason(error)):
        return Retryable(f"ClickHouse can't be reached: {network}", may_run=True)
    if not isinstance(error, ClickHouseError):
        message = f"{type(error).__name__}: {message}"
    if code not in RETRYABLE and (code or not isinstance(error, ClickHouseError)):
        _log.error("an unknown error, treated as temporary: %s", message)
    may_run = not code or code in MAY_RUN
    return Retryable(message, code, public=f"ClickHouse can't do it now{_in_log(code)}", may_run=may_run)


def _in_log(code: int) -> str:
    return f" (code {code}; the log says more)" if code else " (the log says more)"


def classify_query_failure(error: Exception) -> StoreError:
    """What a failed query means. It never rejects rows: only an INSERT can find that they don't fit."""
    failure = classify_failure(error)
    if isinstance(failure, Rejected):
        return Retryable(f"a query failed: {failure}", failure.code, public=failure.public)
    return failure


def _network_reason(error: BaseException | None) -> str | None:
    """What the operating system said, below the layers of the driver, without the address."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return f"TLS failed ({error.reason or 'for an unknown reason'})"
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno) if error.errno > 0 else "its name can't be resolved"
        error = error.__cause__ or error.__context__
    return None
