"""Where the service's microseconds go under load: ``make bench-profile``.

py-spy looks at the service a few hundred times a second and counts which functions each thread is in. A thread's
samples share its CPU time, which the kernel counts: so waiting for the disk weighs nothing. *Self* is time in the
function and in the C that it calls; *total* includes what it calls in Python. Other code is summed up by module.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.targets import KINDS, Target, all_targets, markdown, stay_on_load_core, write_scripts, wrk

PY_SPY = Path(sys.executable).with_name("py-spy")
SAMPLES_PER_SECOND = 250
#: Below this share of the whole a line is left out.
SHOWN_FROM = 0.01
_FRAME = re.compile(r"(?P<function>.+?) \((?P<file>[^)]*?)(?::(?P<line>\d+))?\)")
_THREAD = re.compile(r"thread \((?P<id>\d+)\): (?P<name>\w+)")
_IDLE = re.compile(r"^_worker \(concurrent/futures/thread.py")


class Profile(NamedTuple):
    """µs of CPU a request: by function, in itself and with all that it calls, and by thread."""

    samples: int
    self_: defaultdict[str, float]
    total: defaultdict[str, float]
    threads: defaultdict[str, float]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--target", choices=("server", "embedded"), default="server")
    parser.add_argument("--lines", action="store_true", help="by line of ours, and by function of others")
    args = parser.parse_args()
    stay_on_load_core()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        scripts = write_scripts(folder)
        with all_targets(folder, [args.target]) as targets:
            for kind in KINDS:
                target = targets[args.target]
                wrk(target, scripts[kind.name], 1, args.connections)
                profile = record(target, scripts[kind.name], folder / f"{kind.name}.raw", args)
                cpu = sum(profile.threads.values())
                print(f"\n{kind.name}: {cpu:,.0f} µs of CPU a request, {cpu / kind.events:,.1f} µs an event\n")
                print(table(profile))


def record(target: Target, script: Path, output: Path, args: argparse.Namespace) -> Profile:
    """Profile a target under load."""
    found: dict[str, Any] = {}
    before = thread_cpu(target)
    thread = threading.Thread(target=lambda: found.update(wrk(target, script, args.seconds + 2, args.connections)))
    thread.start()
    command = [str(PY_SPY), "record", "--format=raw", f"--rate={SAMPLES_PER_SECOND}", f"--duration={args.seconds}"]
    command += ["--nonblocking", "--threads", f"--pid={target.pid}", f"--output={output}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    thread.join()
    used = {one: (now - before.get(one, 0)) / found["requests"] for one, now in thread_cpu(target).items()}
    return aggregate(output.read_text(), used, lines=args.lines)


def thread_cpu(target: Target) -> dict[str, float]:
    """µs of CPU that each thread has used."""
    tasks = Path(f"/proc/{target.pid}/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e3 for task in tasks}


def aggregate(raw: str, used: dict[str, float], *, lines: bool = False) -> Profile:
    """Sum up collapsed stacks, ``thread;frame;frame count`` each; ``used`` is the CPU of each thread."""
    stacks: list[tuple[str, list[str], int]] = []
    samples: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if (match := _THREAD.match(thread)) and frames and not _IDLE.search(frames[-1]):
            stacks.append((match["id"], [_name(frame, lines=lines) for frame in frames], int(count)))
            samples[match["id"]] += int(count)
    profile = Profile(sum(samples.values()), defaultdict(float), defaultdict(float), defaultdict(float))
    for id_, names, seen in stacks:
        cpu = used.get(id_, 0) * seen / samples[id_]
        profile.self_[names[-1]] += cpu
        for name in set(names):
            profile.total[name] += cpu
    named = {match["id"]: match["name"] for line in raw.splitlines() if (match := _THREAD.match(line))}
    for thread, cpu in used.items():
        profile.threads[named.get(thread, "other threads")] += cpu
    return profile


def _name(frame: str, *, lines: bool) -> str:
    """Our functions by name, other code by module; or ours by line, other code by function."""
    match = _FRAME.fullmatch(frame)
    if not match:
        return frame
    file = match["file"]
    ours = re.search(r"(?:^|/)((?:service|schemas)/[\w/]+\.py)$", file)
    if ours and "site-packages" not in file:
        place = f":{match['line']}" if lines else ""
        return f"{ours[1]} {match['function']}{place}"
    return f"{file} {match['function']}" if lines else file


def table(profile: Profile) -> str:
    """The profile for people."""
    whole = sum(profile.threads.values())
    least = SHOWN_FROM * whole
    ours = {
        name for name, share in profile.total.items() if name.startswith(("service/", "schemas/")) and share >= least
    }
    shown = list(ours | {name for name, share in profile.self_.items() if share >= least})
    shown.sort(key=lambda name: -profile.self_[name])
    rows = [[f"`{name}`", f"{profile.self_[name]:,.1f}", f"{profile.total[name]:,.1f}"] for name in shown]
    by_share = sorted(profile.threads.items(), key=lambda one: -one[1])
    threads = ", ".join(f"{name} {share:,.1f} µs" for name, share in by_share if share > 0.05)
    return markdown(["where", "self, µs", "total, µs"], rows) + f"\n\nBy thread: {threads}. {profile.samples} samples."


if __name__ == "__main__":
    main()
