"""A release: one version everywhere, a changelog that names it, and packages that hold all that they need."""

import fcntl
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from datetime import date
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest

from service import __version__

pytestmark = pytest.mark.timeout(300)  # whichever test comes first pays for the release
ROOT = Path(__file__).parents[2]
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")

# -- the version and the changelog --------------------------------------------------------------


def test_the_version_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize("name", ["package.json", "package-lock.json"])
def test_the_tracker_has_the_version_of_the_service(name: str) -> None:
    described = json.loads((ROOT / "tracker" / name).read_text())
    versions = {described["version"], described.get("packages", {}).get("", described)["version"]}
    assert versions == {__version__}


def test_no_page_shows_another_version_in_an_answer() -> None:
    shown = {
        version
        for page in (ROOT / "docs").glob("*.md")
        for version in re.findall(r'"version": "(\d+\.\d+\.\d+)"', page.read_text())
    }
    assert shown == {__version__}


def test_the_changelog_has_dated_sections_the_newest_first_and_that_of_this_version() -> None:
    first, *sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first == "Unreleased"
    releases = [re.fullmatch(r"(\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)", section) for section in sections]
    dated = [(tuple(map(int, one[1].split("."))), date.fromisoformat(one[2])) for one in releases if one]
    assert len(dated) == len(sections)
    assert dated == sorted(dated, reverse=True)
    assert len({version for version, _ in dated}) == len(dated)
    assert sections[0].startswith(f"{__version__} - ")


def test_the_changelog_sorts_changes_by_the_usual_kinds() -> None:
    kinds = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(kinds) <= set(KINDS)


# -- the packages -------------------------------------------------------------------------------


class Release(NamedTuple):
    """What ``make release`` made and said."""

    folder: Path
    output: str

    def wheel(self) -> zipfile.ZipFile:
        [path] = self.folder.glob("*.whl")
        return zipfile.ZipFile(path)

    def sdist(self) -> set[str]:
        """The files of the sdist, as paths in its folder."""
        with tarfile.open(self.folder / f"analytics-{__version__}.tar.gz") as sdist:
            return {one.name.partition("/")[2] for one in sdist if one.isfile()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of what is here, one for all processes of pytest: setuptools packs by way of a folder in this one.

    Make is told that the environment of the tests is up to date.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, output = shared / "release", shared / "release.txt"
    command = ["make", "--old-file=setup", "release", f"DIST={folder}", f"BIN={Path(sys.executable).parent}"]
    with (shared / "release.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert done.returncode == 0, done.stdout
            output.write_text(done.stdout)
    return Release(folder, output.read_text())


def listed(*arguments: str) -> set[str]:
    """What git lists of this folder. An unpacked sdist has no git, but a list of what was packed."""
    if not (ROOT / ".git").exists():
        return set((ROOT / "analytics.egg-info" / "SOURCES.txt").read_text().splitlines())
    done = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name}


def test_a_release_passes_its_checks_and_its_wheel_serves_from_an_empty_environment(release: Release) -> None:
    assert release.output.count("PASSED") == 2
    assert "it stored and counted 3 events" in release.output


def test_the_wheel_has_every_file_of_the_packages_and_no_other(release: Release) -> None:
    files = {
        str(path.relative_to(ROOT))
        for package in ("schemas", "service")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with release.wheel() as wheel:
        packed = set(wheel.namelist())
    about = f"analytics-{__version__}.dist-info/"
    assert {name for name in packed if not name.startswith(about)} == files
    assert f"{about}licenses/LICENSE" in packed


def test_the_metadata_say_what_the_package_is(release: Release) -> None:
    with release.wheel() as wheel:
        about = Parser().parsestr(wheel.read(f"analytics-{__version__}.dist-info/METADATA").decode())
    assert (about["Name"], about["Version"], about["License-Expression"]) == ("analytics", __version__, "MIT")
    assert about["Requires-Python"] == ">=3.11"
    assert about["Summary"]
    assert about["Keywords"]
    assert "# Analytics" in about.get_payload()
    assert "Typing :: Typed" in about.get_all("Classifier", ())


def test_the_sdist_has_what_git_has_so_that_it_builds_and_its_tests_run(release: Release) -> None:
    packed = release.sdist()
    there = {name for name in listed() if (ROOT / name).exists()}
    assert there - packed == set()
    made = {name for name in packed if name == "PKG-INFO" or name.startswith("analytics.egg-info/")}
    assert packed - there - made <= listed("--others", "--exclude-standard")
