"""Events as a real site sends them, made from a seed, and the wrk script that posts them.

Names have a long tail, properties vary in size, sessions of about twenty events overlap, few clients write
beyond ASCII. No event has an ``event_id``: the load sends the same bodies again and again, and the service would
rightly store each once.
"""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Event = dict[str, Any]
EVENTS_PER_BATCH = 100
EVENTS_PER_SESSION = 20
#: Sessions begin within this many seconds.
SPAN = 600
START = datetime(2026, 9, 21, 9, 0, tzinfo=UTC)


def _words(text: str) -> list[str]:
    return text.split()


_CATEGORIES = ("page_view", "user_action", "trading", "auth", "error", "performance", "feature", "system")
_CATEGORY_WEIGHTS = (40, 25, 10, 5, 4, 8, 6, 2)
_OBJECTS = _words("order cart search filter chart alert price report video form profile watchlist banner menu tab")
_VERBS = _words("viewed opened clicked placed changed closed submitted failed loaded shared dismissed hovered")
_NAMES = [f"{thing}_{verb}" for verb in _VERBS for thing in _OBJECTS]
_NAME_WEIGHTS = [1 / (rank + 1) ** 1.1 for rank in range(len(_NAMES))]
_SYSTEMS = (
    "Windows NT 10.0; Win64; x64",
    "Macintosh; Intel Mac OS X 10_15_7",
    "X11; Linux x86_64",
    "Linux; Android 15; Pixel 9",
    "iPhone; CPU iPhone OS 18_5 like Mac OS X",
)
_AGENTS = [
    f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36"
    for system in _SYSTEMS
    for version in range(132, 140)
]
_AGENT_WEIGHTS = [1 / (rank + 1) for rank in range(len(_AGENTS))]
_REFERRERS = ["", "https://www.google.com/", "https://www.bing.com/", "https://news.example/", "https://t.example/x"]
_PRIORITIES, _PRIORITY_WEIGHTS = ("low", "medium", "high", "critical"), (20, 65, 12, 3)
_KEYS = _words("symbol side quantity price currency position variant elapsed_ms width height source step plan label")
_WORDS = _words("alpha blue checkout daily euro first growth home index large monthly north premium São 東京 trial")


def make_events(count: int, seed: int) -> list[Event]:
    """``count`` events in the order of their times; the same seed gives the same ones."""
    rng = random.Random(seed)
    events: list[Event] = []
    while len(events) < count:
        events += _session(rng)
    events.sort(key=lambda event: str(event["timestamp"]))
    return events[:count]


def _session(rng: random.Random) -> list[Event]:
    common = {"session_id": f"{rng.getrandbits(96):024x}", "user_agent": rng.choices(_AGENTS, _AGENT_WEIGHTS)[0]}
    page, referrer = _page(rng), rng.choice(_REFERRERS)
    when = START + timedelta(seconds=rng.uniform(0, SPAN))
    events = []
    for _ in range(1 + round(rng.expovariate(1 / (EVENTS_PER_SESSION - 1)))):
        category = rng.choices(_CATEGORIES, _CATEGORY_WEIGHTS)[0]
        if category == "page_view":
            page, referrer = _page(rng), page
        event = {
            "event_name": "page_view" if category == "page_view" else rng.choices(_NAMES, _NAME_WEIGHTS)[0],
            "category": category,
            "priority": rng.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0],
            "properties": _properties(rng),
            "timestamp": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **common,
            "page_url": page,
            "referrer": referrer,
        }
        # clients leave out what they don't have
        events.append({name: value for name, value in event.items() if value})
        when += timedelta(seconds=rng.expovariate(1 / 8))
    return events


def _page(rng: random.Random) -> str:
    path = rng.choice(("markets", "orders", "account", "help", "news", "portfolio"))
    query = f"?tab={rng.choice(_WORDS[:12])}&ref={rng.getrandbits(32):08x}" if rng.random() < 0.3 else ""
    return f"https://app.example.com/{path}/{int(rng.paretovariate(1.2))}{query}"


def _properties(rng: random.Random) -> dict[str, Any]:
    """None for some, a few keys for most, many for some."""
    count = 0 if rng.random() < 0.12 else min(len(_KEYS), round(rng.lognormvariate(math.log(4), 0.6)))
    return {key: _value(rng) for key in rng.sample(_KEYS, count)}


def _value(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.35:
        return round(rng.lognormvariate(3, 2), 2)
    if kind < 0.60:
        return rng.randrange(10_000)
    if kind < 0.70:
        return rng.random() < 0.5
    if kind < 0.75:
        return [rng.choice(_WORDS) for _ in range(rng.randrange(1, 5))]
    if kind < 0.80:
        return {"id": rng.getrandbits(40), "name": rng.choice(_WORDS)}
    return " ".join(rng.choices(_WORDS, k=rng.randrange(1, 4)))


def encode(value: Any) -> bytes:
    """JSON as browsers write it: no blanks, characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def single_bodies(count: int, seed: int) -> list[bytes]:
    """Bodies of one event each."""
    return [encode(event) for event in make_events(count, seed)]


def batch_bodies(count: int, seed: int) -> list[bytes]:
    """Bodies of a hundred events each."""
    events = make_events(count * EVENTS_PER_BATCH, seed)
    starts = range(0, len(events), EVENTS_PER_BATCH)
    return [encode({"events": events[start : start + EVENTS_PER_BATCH], "client_id": "web"}) for start in starts]


_SCRIPT = """-- posts the lines of a file in turn, and ends with one line of JSON
local requests, turn = {}, 0
function init(args)
  local headers = {["Content-Type"] = "application/json", ["Authorization"] = "Bearer %(token)s"}
  for line in io.lines("%(bodies)s") do
    requests[#requests + 1] = wrk.format("POST", "%(path)s", headers, line)
  end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %%d, "seconds": %%.6f, "refused": %%d, "broken": %%d, "p50_ms": %%.3f, "p99_ms": %%.3f}\\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


def write_wrk_script(folder: Path, path: str, bodies: list[bytes], token: str) -> Path:
    """A Lua script for wrk that cycles through the bodies, as requests that are built once."""
    name = path.strip("/").replace("/", "-")
    lines, script = folder / f"{name}.bodies", folder / f"{name}.lua"
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    script.write_text(_SCRIPT % {"token": token, "bodies": lines, "path": path})
    return script
