"""Faults of single system calls, made by strace."""

from pathlib import Path

from tests.machine import find


def injection(calls: str, when: int | str, effect: str, log: Path = Path("/dev/null")) -> tuple[str, ...]:
    """The command to run the service under, so that the calls of those numbers have the effect.

    Each thread counts its own calls. ``log`` gets a line for each call, with the path of the file.
    """
    # The filter makes other calls cost nothing. With it strace 6.1 makes errors, but neither signals nor delays.
    quick = ("--seccomp-bpf",) if effect.startswith("error=") else ()
    return (*watch(calls, log), *quick, "-e", f"inject={calls}:{effect}:when={when}")


def watch(calls: str, log: Path) -> tuple[str, ...]:
    """The command to run the service under, so that ``log`` gets a line for each of these calls."""
    return (find("strace"), "-f", "--quiet=all", "-y", "-o", str(log), "-e", f"trace={calls}")
