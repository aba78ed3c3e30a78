"""Hostile bodies within the limits, made to cost much: every kind of value, with every kind of fault."""

from collections.abc import Iterator

#: For each kind, a value's text: its beginning, the part to repeat up to the size, and its end.
VALUES: dict[str, tuple[bytes, bytes, bytes]] = {
    "plain": (b'{"a":"', b"plain text ", b'"}'),
    "wide arrays": (b'{"a":[', b"[],", b"0]}"),
    "wide objects": (b'{"a":[', b"{},", b"0]}"),
    "deep": (b'{"a":[', b"[" * 97 + b"]" * 97 + b",", b"0]}"),
    "deep objects": (b'{"a":[', b'{"":' * 97 + b"0" + b"}" * 97 + b",", b"0]}"),
    "deep to the end": (b'{"a":' + b"[" * 90, b"[[[],[]],[]],", b"0" + b"]" * 90 + b"}"),
    "too deep": (b'{"a":[', b"[" * 900 + b"]" * 900 + b",", b"0]}"),
    "bottomless": (b'{"a":', b"[", b"}"),
    "small numbers": (b'{"a":[', b"1,", b"0]}"),
    "fractions": (b'{"a":[', b"1.5,", b"0]}"),
    "exponents": (b'{"a":[', b"1e308,-1E-308,", b"0]}"),
    "one number": (b'{"a":', b"9", b"}"),
    "one fraction": (b'{"a":0.', b"0", b"1}"),
    "one exponent": (b'{"a":1e', b"9", b"}"),
    "numbers of 4300 digits": (b'{"a":[', b"9" * 4300 + b",", b"0]}"),
    "numbers of 5000 digits": (b'{"a":[', b"9" * 5000 + b",", b"0]}"),
    "strings": (b'{"a":[', b'"",', b"0]}"),
    "brackets in strings": (b'{"a":[', b'"[[","]{",', b"0]}"),
    "one key again": (b'{"b":1', b',"a":1', b"}"),
    "line ends": (b'{"a":"', b"\\n", b'"}'),
    "backslashes": (b'{"a":"', b"\\\\", b'"}'),
    "quotes": (b'{"a":"', b'\\"', b'"}'),
    "escaped pairs": (b'{"a":"', b"\\ud83d\\ude00", b'"}'),
    "halves of pairs": (b'{"a":"', b"\\ud83d", b'"}'),
    "many halves": (b'{"a":[', b'"\\udfff",', b"0]}"),
    "letters beyond ascii": (b'{"a":"', "é東".encode(), b'"}'),
    "spaces": (b'{"a":', b" ", b"0}"),
    "no json": (b'{"a":[', b"1 ", b"]}"),
    "no number": (b'{"a":[', b"NaN,", b"0]}"),
    "no utf-8": (b'{"a":"', b"\xff", b'"}'),
}
#: For each fault, and for none, what surrounds the value in an event.
EVENTS: dict[str, tuple[bytes, bytes]] = {
    "valid": (b'{"event_name":"a","properties":', b"}"),
    "valid after a second look": (b'{"event_name":5,"event_name":"a","properties":', b"}"),
    "ignored": (b'{"event_name":"a","ignored":', b"}"),
    "nothing else": (b'{"properties":', b"}"),
    "wrong priority": (b'{"event_name":"a","priority":5,"properties":', b"}"),
    "in place of a text": (b'{"event_name":', b"}"),
    "in place of a time": (b'{"event_name":"a","timestamp":', b"}"),
    "half of a pair": (b'{"event_name":"a","properties":', b',"session_id":"\\ud800"}'),
    "half of a pair where it is ignored": (b'{"event_name":"a","properties":', b',"x":{"y":["\\ud800"]}}'),
    "cut off": (b'{"event_name":"a","properties":', b""),
    "no number": (b'{"event_name":"a","properties":', b',"x":NaN}'),
}
#: For each way to make a batch, what surrounds an event.
BATCHES: dict[str, tuple[bytes, bytes]] = {
    "alone": (b'{"events":[', b"]}"),
    "after others": (b'{"events":[' + b'{"event_name":"a"},' * 99, b"]}"),
    "after faulty ones": (b'{"events":[' + b'{"event_name":"","priority":7,"sequence":0},' * 99, b"]}"),
    "no batch": (b'{"client_id":5,"events":[', b"]}"),
    "no list": (b'{"events":', b"}"),
}


def value(kind: str, size: int) -> bytes:
    """A value of this kind, of about ``size`` bytes."""
    if kind == "many keys":
        return b'{"a":1' + b"".join(b',"%x":1' % number for number in range(size // 11)) + b"}"
    begin, unit, end = VALUES[kind]
    return begin + unit * max(1, (size - len(begin) - len(end)) // len(unit)) + end


KINDS = (*VALUES, "many keys")


def single_bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Every kind with every fault, named."""
    for kind in KINDS:
        text = value(kind, size - 150)
        for fault, (before, after) in EVENTS.items():
            yield f"{kind}, {fault}", before + text + after
        yield f"{kind}, no object", b"[" + text + b"]"
        yield f"{kind}, as a body", text


def batch_bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Every kind with every fault in every place of a batch, or in each of its events, named."""
    for kind in KINDS:
        text, part = value(kind, size - 5000), value(kind, size // 100 - 150)
        for fault, (before, after) in EVENTS.items():
            for place, (first, last) in BATCHES.items():
                yield f"{kind}, {fault}, {place}", first + before + text + after + last
            each = before + part + after
            yield f"{kind}, {fault}, in each", b'{"events":[' + b",".join([each] * 100) + b"]}"
        yield f"{kind}, in place of events", b'{"events":[' + text + b"]}"
    for unit in (b"0,", b"[],", b'{"event_name":"a"},', b'{"event_name":""},'):
        yield f"too many {unit!r}", b'{"events":[' + unit * ((size - 30) // len(unit)) + b"0]}"
