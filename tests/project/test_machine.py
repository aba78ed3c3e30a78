"""What `make test` needs of a machine: installed by apt where that asks nobody, else named in one line, at once."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import machine

ROOT = Path(__file__).parents[2]
#: A machine that has Python, make and npm, and what these call.
GIVEN = ("make", "sh", "npm", "node", "env", "uname", "cmp", "cat", "ln")
#: Programs that most machines have in /usr/bin alone, and the packages that have them.
MISSING = {"chromium": "chromium", "curl": "curl", "prlimit": "util-linux", "promtool": "prometheus", "wrk": "wrk"}
#: Puts what it is to install into its own folder, if it is told so.
APT_GET = """#!/bin/sh
cd "$(dirname "$0")"
echo "$DEBIAN_FRONTEND $*" >>apt-get.log
[ "$1" = install ] || exit 0
for program in {programs}; do ln -s /bin/true $program; done
exit {code}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (*GIVEN, "dirname"):
        (folder / name).symlink_to(shutil.which(name) or f"/no/{name}")
    (folder / "python3").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(machine, "_MORE_FOLDERS", ())
    return folder


def apt_get(folder: Path, code: int, programs: str = "") -> None:
    (folder / "apt-get").write_text(APT_GET.format(programs=programs, code=code))
    (folder / "apt-get").chmod(0o755)


def test_make_test_says_all_that_is_missing_in_one_line_before_anything_is_built(tmp_path: Path, folder: Path) -> None:
    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    for name in ("Makefile", "tests/machine.py"):
        shutil.copy(ROOT / name, project / name)
    before = set(project.rglob("*"))
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not a part of ours
    done = subprocess.run(["make", "test"], cwd=project, env=alone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    line, makes = done.stderr.splitlines()
    assert re.match(r"make(\[\d\])?: \*\*\* ", makes)
    for program, package in MISSING.items():
        assert program in line.partition("Install: ")[0]
        assert f" {package}" in line.partition("Install: ")[2]
    assert "npm" not in line
    assert set(project.rglob("*")) == before
    assert done.stdout == ""


@pytest.mark.usefixtures("folder")
def test_programs_are_found_where_only_the_path_of_root_leads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="there is no haproxy: install it, on Debian with `apt-get install haproxy`"):
        machine.find("haproxy")
    monkeypatch.setattr(machine, "_MORE_FOLDERS", (str(tmp_path),))
    (tmp_path / "haproxy").symlink_to("/bin/true")
    assert machine.find("haproxy") == str(tmp_path / "haproxy")


def test_any_browser_of_the_family_does(folder: Path) -> None:
    (folder / "google-chrome").symlink_to("/bin/true")
    assert machine.find("chromium") == str(folder / "google-chrome")


def test_root_has_apt_install_it_and_is_asked_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_find_library", lambda name: None if not (folder / name).exists() else name)
    apt_get(folder, 0, " ".join(names[0] for names in machine.TEST))
    assert machine.main("test") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert printed.err == ""
    update, install = (folder / "apt-get.log").read_text().splitlines()
    assert update == "noninteractive update -qq"
    assert install.startswith("noninteractive install -qq --yes --no-install-recommends ")
    assert {*MISSING.values(), "faketime"} <= set(install.split())
    assert machine.main("test") == 0
    assert len((folder / "apt-get.log").read_text().splitlines()) == 2, "nothing is missing any more"


@pytest.mark.parametrize("code", [0, 100])
def test_what_apt_could_not_install_is_named(folder: Path, capsys: pytest.CaptureFixture[str], code: int) -> None:
    apt_get(folder, code, "wrk")
    assert machine.main("test") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "chromium" in line
    assert "wrk" not in line
    assert ("what apt-get has installed is not on the PATH" in line) == (code == 0)


def test_others_than_root_are_told_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apt_get(folder, 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(machine, "may_mount", lambda: False)
    assert machine.main("test") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "Install: sudo apt-get update -qq && sudo apt-get install -qq --yes --no-install-recommends " in line
    assert "the right to mount disks (run it as root" in line
    assert not (folder / "apt-get.log").exists()


def test_what_no_package_brings_is_named_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    for name in ("npm", "node"):
        (folder / name).unlink()
    (folder / "npm").write_text('#!/bin/sh\necho \'{ "npm": "9.2.0", "node": "18.20.4" }\'\n')
    (folder / "npm").chmod(0o755)
    assert machine.main("build") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"Python 3.11 or newer (set PYTHON to it: {sys.executable} is" in line
    assert f"Node.js 20.19 or newer ({folder / 'npm'} runs on 18.20.4)" in line
    assert "Install" not in line


def test_to_serve_needs_nothing_but_python(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    assert machine.main("python") == 0


def test_the_needs_of_tests_are_declared_in_one_place() -> None:
    others = [path for path in (*ROOT.glob(".ci/*"), *(ROOT / "tests").rglob("*.py")) if path.name != "machine.py"]
    alone = [path for path in others if path.name != Path(__file__).name]
    assert len(alone) > 100
    assert [path for path in alone if "apt-get" in path.read_text()] == []


@pytest.mark.parametrize(
    ("made_with", "options", "made_anew"),
    [
        (platform.python_version(), [f"PYTHON={sys.executable}"], False),
        ("3.10.1", [f"PYTHON={sys.executable}"], True),
        ("3.10.1", [], False),
        (None, [f"PYTHON={sys.executable}"], True),
        (None, [], True),
    ],
    ids=["named, the same", "named, another", "not named", "named, the first time", "not named, the first time"],
)
def test_the_environment_is_made_anew_when_another_python_is_named(
    tmp_path: Path, made_with: str | None, options: list[str], made_anew: bool
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    if made_with:
        (tmp_path / "venv").mkdir()
        (tmp_path / "venv" / ".made").write_text(f"{made_with}\n")
    command = ["make", "--dry-run", "VENV=venv", *options, "venv/.made"]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "VENV")}
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=True)
    assert ("-m venv --clear venv" in done.stdout) == made_anew
