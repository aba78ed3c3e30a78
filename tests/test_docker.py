"""The Dockerfile and compose.yaml, without a Docker engine: every command that they run is run here."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.service import Service

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the build stage makes: its own RUN line, with other folders."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / "source"
    source.mkdir()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *names, target = line.split()
        for name in names:
            subprocess.run(["cp", "-r", str(ROOT / name), str(source / target)], check=True)
    [command] = re.findall(r"^RUN (python -m venv .+)$", DOCKERFILE, re.MULTILINE)
    command = command.replace("/venv", f"{folder}/venv").replace("python -m", f"{sys.executable} -m")
    subprocess.run(["bash", "-ec", command], cwd=source, env=os.environ | {"EXTRAS": ""}, check=True)
    return folder / "venv" / "bin"


def start_command() -> list[str]:
    [command] = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    found: list[str] = json.loads(command)
    return found


@pytest.mark.timeout(300)
def test_the_image_serves_from_an_installed_package_without_the_embedded_engine(
    installed: Path, make_service: Callable[..., Service], server_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *arguments = start_command()
    assert arguments == ["serve"]
    monkeypatch.setattr("tests.support.service.ANALYTICS", installed / program)
    service = make_service(server_dsn).start()
    assert service.post({"event_name": "e"}).status == 200
    service.wait_for_total(1)
    assert service.send("GET", "/docs/swagger-ui.css").status == 200
    assert service.send("GET", "/tracker.js").status == 200
    listed = subprocess.run([installed / "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "chdb" not in listed
    assert "pytest" not in listed
    [check] = re.findall(r"CMD (\[\"python\".+\])$", DOCKERFILE, re.MULTILINE)
    healthcheck = [str(installed / "python"), *json.loads(check)[1:]]
    environment = os.environ | {"ANALYTICS_PORT": str(service.port)}
    assert subprocess.run(healthcheck, env=environment).returncode == 0
    service.stop()
    assert subprocess.run(healthcheck, env=environment, stderr=subprocess.DEVNULL).returncode != 0


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
