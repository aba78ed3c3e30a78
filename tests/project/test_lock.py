"""The lock files hold what ``setup.cfg`` and ``pyproject.toml`` say, on each Python and platform: no network needed."""

import configparser
import re

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import lock

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PLATFORMS = [("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64")]


def holds(marker: Marker | None, python: str, platform: tuple[str, str, str]) -> bool:
    """Whether a requirement with this marker counts there."""
    sys_platform, system, machine = platform
    there = {"sys_platform": sys_platform, "platform_system": system, "platform_machine": machine}
    versions = {"python_version": python, "python_full_version": f"{python}.0"}
    return marker is None or marker.evaluate(dict(default_environment()) | there | versions)


@pytest.mark.parametrize("name", lock.NAMES)
def test_lock_file_was_made_from_the_requirements_of_today(name: str) -> None:
    text = (lock.FOLDER / f"{name}.txt").read_text()
    assert text.startswith(lock.header(name)), "setup.cfg or pyproject.toml has changed since: `make lock`"


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform[2])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", lock.NAMES)
def test_every_requirement_is_locked_once_within_its_bounds(
    name: str, python: str, platform: tuple[str, str, str]
) -> None:
    found = lock.locked(name)
    for line in lock.sources(name):
        requirement = Requirement(line)
        if not holds(requirement.marker, python, platform):
            continue
        versions = [
            one.version for one in found[canonicalize_name(requirement.name)] if holds(one.marker, python, platform)
        ]
        assert len(versions) == 1, line
        assert versions[0] in requirement.specifier, line


@pytest.mark.parametrize("name", lock.NAMES)
def test_every_locked_package_has_hashes(name: str) -> None:
    found = lock.locked(name)
    assert found
    for package, entries in found.items():
        for one in entries:
            assert one.hashes, package
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in one.hashes), package


def test_the_embedded_engine_only_adds_to_what_is_locked_without_it() -> None:
    embedded, run = lock.locked("embedded"), lock.locked("run")
    assert "chdb-core" in embedded.keys() - run.keys()
    for package, entries in run.items():
        assert {(one.version, one.hashes) for one in entries} == {
            (one.version, one.hashes) for one in embedded[package]
        }, package


def test_every_supported_python_is_in_the_metadata_and_in_these_tests() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(lock.ROOT / "setup.cfg")
    assert PYTHONS[0] == lock.oldest_python()
    classifiers = re.findall(r"Python :: (3\.\d+)$", config["metadata"]["classifiers"], re.MULTILINE)
    assert classifiers == PYTHONS
