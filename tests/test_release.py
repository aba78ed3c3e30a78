"""A release: one version everywhere, a changelog that names it, and packages that hold all that they need."""

import json
import re
from datetime import date
from pathlib import Path

import pytest

from service import __version__

ROOT = Path(__file__).parents[1]
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
