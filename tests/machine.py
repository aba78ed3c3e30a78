"""What the tests need of the machine, declared once: ``make test`` runs this file first, and tests find programs by it.

It runs before anything is built, on whatever Python there is: with the standard library alone, in a syntax that an
older Python can read. What is missing is installed by apt where that needs nobody: as root, on Debian and its kin.
Else it ends with one line that names all that is missing and the command that installs it.

    python3 tests/machine.py python   what `make run` needs: Python with venv
    python3 tests/machine.py build    what `make setup` needs: npm too
    python3 tests/machine.py test     what the whole suite needs
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = (3, 11)
#: Of Node.js, which npm runs on: the tracker's build tools need it.
NODE = (20, 19)
#: What is found by one of several names, and the package of Debian that has it.
BUILD = {("npm",): "npm"}
TEST = {
    ("bash",): "bash",
    ("chromium", "google-chrome", "chromium-browser"): "chromium",
    ("curl",): "curl",
    ("e2fsck",): "e2fsprogs",
    ("findmnt",): "util-linux",
    ("haproxy",): "haproxy",
    ("mkfs.ext4",): "e2fsprogs",
    ("mount",): "mount",
    ("nginx",): "nginx",
    ("nsenter",): "util-linux",
    ("prlimit",): "util-linux",
    ("prometheus",): "prometheus",
    ("promtool",): "prometheus",
    ("setsid",): "util-linux",
    ("strace",): "strace",
    ("umount",): "mount",
    ("unshare",): "util-linux",
    ("wrk",): "wrk",
    ("libfaketime.so.1",): "faketime",
}
#: Where programs may be that the PATH of an ordinary user does not name.
_MORE_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
#: Where distributions put libraries that a program is to preload.
_LIBRARIES = ("usr/lib/*/faketime", "usr/lib/faketime", "usr/lib64/faketime")
_CAP_SYS_ADMIN = 21


def find(name: str) -> str:
    """The path of a program, by its name or by that of another that does as well, or of a library.

    RuntimeError says what to install.
    """
    names, package = next((names, package) for names, package in (BUILD | TEST).items() if name in names)
    found = _find(names)
    if found is None:
        raise RuntimeError(f"there is no {name}: install it, on Debian with `apt-get install {package}`")
    return found


def may_mount() -> bool:
    """Whether this process may mount a disk, as root may outside of most containers."""
    status = Path("/proc/self/status").read_text()
    rights = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(rights, 16) >> _CAP_SYS_ADMIN & 1)


def _find(names: tuple[str, ...]) -> str | None:
    if names[0].endswith(".so.1"):
        return _find_library(names[0])
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_MORE_FOLDERS])
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def _find_library(name: str) -> str | None:
    return min((str(path) for folder in _LIBRARIES for path in Path("/").glob(f"{folder}/{name}")), default=None)


def _packages(purpose: str) -> dict[str, str]:
    """What is missing that a package of Debian has: what it is → the package."""
    needed = (BUILD if purpose != "python" else {}) | (TEST if purpose == "test" else {})
    missing = {names[0]: package for names, package in needed.items() if _find(names) is None}
    if importlib.util.find_spec("ensurepip") is None:
        missing["the module venv of Python"] = "python3-venv"
    return missing


def _others(purpose: str) -> list[str]:
    """What is missing that no package brings."""
    missing = []
    if sys.version_info < PYTHON:
        this = f"{sys.executable} is {sys.version.split()[0]}"
        missing.append(f"Python {_dotted(PYTHON)} or newer (set PYTHON to it: {this})")
    npm = _find(("npm",))
    if npm is not None and purpose != "python":
        done = subprocess.run([npm, "version", "--json"], cwd=os.sep, stdout=subprocess.PIPE, check=False)
        version = re.search(r'"node": "((\d+)\.(\d+)[^"]*)', done.stdout.decode())
        if version is None or (int(version[2]), int(version[3])) < NODE:
            this = f"{npm} runs on {version[1]}" if version else f"{npm} does not run"
            missing.append(f"Node.js {_dotted(NODE)} or newer ({this})")
    if purpose == "test" and not may_mount():
        missing.append("the right to mount disks (run it as root; in a container, as a privileged one)")
    return missing


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _apt(packages: list[str]) -> list[list[str]]:
    options = ["-qq", "--yes", "--no-install-recommends"]
    return [["apt-get", "update", "-qq"], ["apt-get", "install", *options, *packages]]


def _install(packages: list[str]) -> bool:
    """Have apt install them; what it says of a failure goes to standard error."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    null = subprocess.DEVNULL
    return not any(
        subprocess.run(command, env=environment, stdin=null, stdout=null, check=False).returncode
        for command in _apt(packages)
    )


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def main(purpose: str) -> int:
    """Install what is missing, or say it; the exit code."""
    missing, others = _packages(purpose), _others(purpose)
    debian = shutil.which("apt-get") is not None
    if missing and not others and debian and os.geteuid() == 0:
        packages = sorted(set(missing.values()))
        print(f"missing: {_listed(list(missing))}; apt-get installs {' '.join(packages)}", flush=True)
        installed = _install(packages)
        missing, others = _packages(purpose), _others(purpose)
        if installed and missing:
            others.append("what apt-get has installed is not on the PATH")
    if not missing and not others:
        return 0
    line = f"missing: {_listed([*missing, *others])}"
    if missing:
        packages = sorted(set(missing.values()))
        sudo = "" if os.geteuid() == 0 else "sudo "
        commands = " && ".join(sudo + " ".join(command) for command in _apt(packages))
        line += f". Install: {commands if debian else 'the packages that Debian names ' + ' '.join(packages)}"
    print(line, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
