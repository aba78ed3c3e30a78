"""The Dockerfile and compose.yaml, without a Docker engine: every command that they run is run here."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from service import __version__
from tests.lock import locked
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)  # whichever test comes first pays for the environment
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the build stage makes: its own RUN lines, with other folders."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / "source"
    source.mkdir()
    stage = DOCKERFILE.split("FROM ")[1]
    settings = dict(re.findall(r"\b(PIP_\w+)=(\S+)", stage))
    for instruction, text in re.findall(r"^(COPY|RUN) (.+)$", stage, re.MULTILINE):
        if instruction == "COPY":
            *names, target = text.split()
            for name in names:
                subprocess.run(["cp", "-r", str(ROOT / name), str(source / target)], check=True)
        else:
            command = re.sub(r"(?<![\w.-])/(venv|build)\b", rf"{folder}/\1", text)
            command = command.replace("python -m", f"{sys.executable} -m")
            environment = os.environ | {"EXTRAS": ""} | settings
            subprocess.run(["bash", "-ec", command], cwd=source, env=environment, check=True)
    return folder / "venv" / "bin"


def start_command() -> list[str]:
    [command] = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    found: list[str] = json.loads(command)
    return found


def test_the_image_serves_from_an_installed_package_without_the_embedded_engine(
    installed: Path, make_service: Callable[..., Service], server_dsn: str
) -> None:
    program, *arguments = start_command()
    assert arguments == ["serve"]
    service = make_service(server_dsn)
    service.program = installed / program
    service.start()
    assert service.post({"event_name": "e"}).status == 200
    service.wait_for_total(1)
    assert service.send("GET", "/docs/swagger-ui.css").status == 200
    assert service.send("GET", "/tracker.js").status == 200
    [check] = re.findall(r"CMD (\[\"python\".+\])$", DOCKERFILE, re.MULTILINE)
    healthcheck = [str(installed / "python"), *json.loads(check)[1:]]
    environment = os.environ | {"ANALYTICS_PORT": str(service.port)}
    assert subprocess.run(healthcheck, env=environment).returncode == 0
    service.stop()
    assert subprocess.run(healthcheck, env=environment, stderr=subprocess.DEVNULL).returncode != 0


def test_the_image_has_the_packages_that_are_locked_and_no_other(installed: Path) -> None:
    listing = "from importlib.metadata import distributions\nfor one in distributions(): print(one.name, one.version)"
    done = subprocess.run([installed / "python", "-c", listing], capture_output=True, text=True, check=True)
    versions = {canonicalize_name(name): version for name, version in map(str.split, done.stdout.splitlines())}
    of_venv = {"pip", "setuptools"} if sys.version_info < (3, 12) else {"pip"}
    assert versions.pop("analytics") == __version__
    assert {name: version for name, version in versions.items() if name not in of_venv} == {
        package: one.version
        for package, entries in locked("run").items()
        for one in entries
        if one.marker is None or one.marker.evaluate()
    }


def test_all_that_the_image_downloads_has_a_known_hash() -> None:
    installs = re.findall(r"pip (?:install|wheel) .*?(?= && |$)", DOCKERFILE, re.MULTILINE)
    assert len(installs) == 4
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)


def test_without_the_embedded_engine_the_start_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed / "analytics", "serve"], cwd=tmp_path, env={"PATH": "/usr/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "install this package with its extra [embedded]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_final_stage_is_small_and_not_root() -> None:
    final = DOCKERFILE.rsplit("FROM ", 1)[1]
    assert "slim" in final.splitlines()[0]
    assert re.search(r"^USER 10001$", final, re.MULTILINE)
    assert "VOLUME /data" in final


def test_compose_starts_the_image_with_settings_that_exist() -> None:
    from service.config import Settings, variable

    text = (ROOT / "compose.yaml").read_text() + DOCKERFILE
    known = {variable(field) for field in Settings.model_fields}
    used = set(re.findall(r"\b(ANALYTICS_[A-Z_]+)\b", text))
    assert used
    assert used <= known
