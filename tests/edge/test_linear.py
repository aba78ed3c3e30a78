"""What a head or a regular expression is fed costs time in proportion to its bytes, whatever they are."""

import importlib
import json
import pkgutil
import re
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

import schemas
import service
from service.edge import access_tokens
from service.edge.request_head import Heads
from service.store.failures import classify_failure
from tests.support.service import BATCH, EVENTS, WRITE
from tests.support.wire import head

KNOWN = access_tokens.from_environment(WRITE, "reader")
#: How many times as long the worst bytes may take as so many plain ones; reading in vain again costs thousands.
MOST = 40
BAD = "\x01"


def seconds(read: Callable[[Any], object], given: Any) -> float:
    """The time of one call, the least of several, since the machine is shared."""
    best = float("inf")
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(20):
            read(given)
        best = min(best, (time.perf_counter() - began) / 20)
    return best


# -- heads ------------------------------------------------------------------------------------


def in_lines(value: str) -> list[str]:
    return [f"X{index}: {value}" for index in range(50)]


#: Header lines by a number of bytes.
HOSTILE: dict[str, Callable[[int], list[str]]] = {
    "spaces": lambda n: ["X: " + " " * n + BAD],
    "tabs": lambda n: ["X: " + "\t" * n + BAD],
    "spaces and tabs": lambda n: ["X: " + " \t" * (n // 2) + BAD],
    "spaces between letters": lambda n: ["X: " + "a " * (n // 2) + BAD],
    "spaces at both ends": lambda n: ["X: " + " " * (n // 2) + "a" + " " * (n // 2) + BAD],
    "spaces behind quotes": lambda n: ['X: "' + " " * n + BAD],
    "quotes": lambda n: ["X: " + '"' * n + BAD],
    "colons": lambda n: [":" * n + BAD],
    "a long name": lambda n: ["a" * n + BAD],
    "a name of spaces": lambda n: [" " * n + ":"],
    "an access token behind spaces": lambda n: [f"Authorization: Bearer{' ' * n}x{BAD}"],
    "an access token before spaces": lambda n: [f"Authorization: Bearer x{' ' * n}{BAD}"],
    "options": lambda n: ["Connection: " + "x," * (n // 2)],
    "preferences": lambda n: ["Prefer: " + "a;," * (n // 3)],
    "equal signs": lambda n: ["Prefer: " + "=" * n],
    "a length of many digits": lambda n: ["Content-Length: " + "1" * n],
    "an idempotency key with a space": lambda n: ["Idempotency-Key: " + "a" * n + " a"],
    "a request id": lambda n: ["X-Request-ID: " + "a" * n + " "],
    "an origin": lambda n: ["Origin: " + "https://" * (n // 8)],
    "many headers": lambda n: in_lines(" " * (n // 50) + BAD),
    "many headers of tabs": lambda n: in_lines("\t" * (n // 50)),
}


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE)
def test_a_head_is_read_in_time_linear_in_its_bytes(lines: Callable[[int], list[str]]) -> None:
    def read(block: bytes) -> object:
        return Heads({EVENTS: True, BATCH: False}, KNOWN).read(block)

    def took(count: int) -> float:
        return seconds(read, head("Content-Length: 22", *lines(count)).removesuffix(b"\r\n\r\n"))

    # Cubic in so few bytes is 64 times; so it needs no more of them, and no patience where the test fails.
    plain = seconds(read, head("Content-Length: 22", *in_lines("a" * 8)).removesuffix(b"\r\n\r\n"))
    assert took(400) < MOST * plain
    assert took(3200) < MOST * plain


# -- regular expressions ----------------------------------------------------------------------


def patterns() -> dict[str, re.Pattern[Any]]:
    """Every regular expression that a module of ours has by a name."""
    found = {}
    for package in (service, schemas):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, re.Pattern) and not any(value is one for one in found.values()):
                    found[f"{module.name}.{name}"] = value
    return found


FOUND = patterns()
Use = Callable[[re.Pattern[Any], Any], object]
#: How a pattern is used, where it would not be linear in whatever text, used in any way.
USES: dict[str, Use] = {
    "schemas.parse._STRINGS": lambda pattern, text: pattern.sub("", json.dumps(text)),  # only of what is valid JSON
    "service.origins._ORIGIN": lambda pattern, text: pattern.fullmatch(text),
    "service.spool.segment._SPLIT": lambda pattern, text: None,  # of files that nobody but the service writes
    "service.store.failures._NOT_FOR_PEOPLE": lambda pattern, text: classify_failure(ClickHouseError(text)),
}
#: What nearly fits some pattern or other, to be repeated.
WORST = [
    *("a", "0", " ", "\t", '"', '\\"', '"\\', "\\", ".", "-", ":", "/", "{", "\x01", "\n", "_", ";", "0-", "a.", "a-"),
    *('"a"', "a:", "https://", "a.0", "0-0;", "%", "é", "'", "(", "Code: 1. ", "\ud800", "[::", "0123456789ab-"),
    *("(for url ", "(version (", ". Column values:", " (A_B)", "a" * 8 + "-" + "a" * 27 + " ("),
]


def every_way(pattern: re.Pattern[Any], text: Any) -> None:
    pattern.fullmatch(text)
    pattern.match(text)
    pattern.search(text)
    pattern.sub(text[:0], text)


def took(use: Use, pattern: re.Pattern[Any], text: Any) -> float:
    """The time for the text, the least of several, since the machine is shared."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        use(pattern, text)
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_regular_expression_takes_time_linear_in_its_text(name: str) -> None:
    pattern, use, count = FOUND[name], USES.get(name, every_way), 4000
    in_bytes = isinstance(pattern.pattern, bytes)
    plain = took(every_way, re.compile("(?:[^x]|x)*"), "a" * count)
    for before, unit, end in product(("", '"', "a", "https://a"), WORST, ("", BAD, '"')):
        text = before + unit * (count // len(unit)) + end
        needed = took(use, pattern, text.encode("utf-8", "surrogatepass") if in_bytes else text)
        assert needed < MOST * plain, f"{pattern.pattern!r} takes {needed / plain:.0f} times as long for {text[:20]!r}"


def test_regular_expressions_are_found() -> None:
    assert "service.edge.responses._GIVEN_ID" in FOUND
    assert len(FOUND) > 10
