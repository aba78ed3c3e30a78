"""The lock files in ``requirements``: every package that an image installs, with its version and its hashes.

``make lock`` makes them from ``setup.cfg`` and ``pyproject.toml``, for every platform and every supported Python. What
is locked stays where it is while it fits; ``make lock UPGRADE=1`` moves everything to the newest that does. Each file
begins with the lines that it was made from, so that ``tests/project/test_lock.py`` sees without a network which is out
of date.
"""

import argparse
import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
#: In this order: what is locked with the extra is what is locked without it, and something more.
NAMES = ("embedded", "run", "build")


class Locked(NamedTuple):
    """A package in a lock file."""

    version: str
    marker: Marker | None
    hashes: frozenset[str]


def sources(name: str) -> list[str]:
    """The requirements, as they are declared, that the lock file of this name is for."""
    if name == "build":
        declared: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        return declared
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"]
    if name != "run":
        lines += "\n" + config["options.extras_require"][name]
    return [line for line in lines.splitlines() if line]


def header(name: str) -> str:
    """How the lock file of this name begins while it is up to date."""
    return "".join(("# Made by `make lock` from\n", *(f"#   {line}\n" for line in sources(name)), "\n"))


def locked(name: str) -> dict[str, list[Locked]]:
    """What a lock file has of each package: several versions of one exclude each other by their markers."""
    found: dict[str, list[Locked]] = {}
    text = (FOLDER / f"{name}.txt").read_text()
    for entry in re.sub(r"^#.*\n|^\n|\\\n", "", text, flags=re.MULTILINE).splitlines():
        pin, *hashes = re.split(r" +--hash=", entry.strip())
        requirement = Requirement(pin)
        [version] = requirement.specifier
        assert version.operator == "=="
        found.setdefault(canonicalize_name(requirement.name), []).append(
            Locked(version.version, requirement.marker, frozenset(hashes))
        )
    return found


def oldest_python() -> str:
    """The oldest Python that is supported: ``3.11``."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return re.sub(r"[^\d.]", "", config["options"]["python_requires"])


def make(name: str, *, upgrade: bool) -> None:
    """Make the lock file of this name anew. Needs the network."""
    path = FOLDER / f"{name}.txt"
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--universal", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--python-version", oldest_python(), "--output-file", str(path)]
    if name == "run":
        command += ["--constraint", str(FOLDER / "embedded.txt")]
    if upgrade:
        command.append("--upgrade")
    uv = str(Path(sys.executable).with_name(command[0]))
    subprocess.run([uv, *command[1:], "-"], input="\n".join(sources(name)), text=True, check=True)
    path.write_text(header(name) + path.read_text())


def main() -> None:
    """Make all of them anew."""
    parser = argparse.ArgumentParser(description="Make the lock files in requirements anew.")
    parser.add_argument("--upgrade", action="store_true", help="move everything to the newest version that fits")
    upgrade = parser.parse_args().upgrade
    for name in NAMES:
        make(name, upgrade=upgrade)


if __name__ == "__main__":
    main()
