"""How deep a JSON document is nested.

Each step is one pass in C: a Python loop over millions of characters would block all other requests.
"""

from itertools import accumulate
from operator import add

_BITS = bytes.maketrans(b"[{]}", b"1100")
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'[{]}"'))
#: For eight brackets as the bits of a byte: how many levels they go down in all, and at the deepest place.
_STEPS = [[1 if code >> bit & 1 else -1 for bit in reversed(range(8))] for code in range(256)]
_NET = bytes(sum(steps) & 0xFF for steps in _STEPS)
_DEEPEST = bytes(max(accumulate(steps, initial=0)) for steps in _STEPS)


def depth(text: bytes) -> int:
    """Levels of arrays and objects in ``text``, which must be valid JSON: ``{"a": [1]}`` has two."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # now each quote begins or ends a string
    marks = text.translate(_BITS, _NEITHER_BRACKET_NOR_QUOTE)
    brackets = b"".join(marks.replace(b'""', b"").split(b'"')[::2])  # those between strings
    brackets += b"0" * (-len(brackets) % 8)
    codes = int(brackets or b"0", 2).to_bytes(len(brackets) // 8, "big")
    levels_before = accumulate(memoryview(codes.translate(_NET)).cast("b"), initial=0)
    return max(map(add, levels_before, codes.translate(_DEEPEST)), default=0)
