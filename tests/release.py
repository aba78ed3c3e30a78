"""A wheel is tried as its users do: installed into an empty environment, it serves. ``make release`` runs this.

The environment gets the packages of ``requirements/embedded.txt``, and nothing of this folder is on its path.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lock import FOLDER
from tests.support.service import ACTIVITY, BATCH, LOSS, PIPELINE, REFUSALS, STATS, Service

#: A route for each kind of file that the service reads from its package: SQL, pages, scripts, styles, models.
READS = (STATS, f"{ACTIVITY}?span=24h", f"{LOSS}?session_id=s", PIPELINE, REFUSALS, "/docs", "/dashboard", "/metrics")
FILES = ("/openapi.json", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/tracker.js")


def install(wheel: Path, folder: Path) -> Path:
    """Make an environment with the wheel and the packages that are locked for it; the folder of its programs."""
    uv, environment = Path(sys.executable).with_name("uv"), folder / "venv"
    python = environment / "bin" / "python"
    into = ("pip", "install", "--quiet", "--python", python)
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("venv", "--quiet", "--python", sys.executable, environment),
        (*into, "--require-hashes", "--requirement", FOLDER / "embedded.txt"),
        (*into, "--no-index", "--no-deps", wheel),
        ("pip", "check", "--quiet", "--python", python),
    )
    for command in commands:
        subprocess.run([uv, "--no-config", *command], cwd=folder, check=True)
    return python.parent


def serve(programs: Path, folder: Path) -> int:
    """Start what is installed, with ClickHouse embedded, and use it; how many events it has in its table then."""
    service = Service(folder / "service", ANALYTICS_CLICKHOUSE_DSN="chdb://")
    service.program = programs / "analytics"
    service.start()
    try:
        events = [{"event_name": "a", "session_id": "s", "sequence": number} for number in (1, 2)]
        assert service.post({"event_name": "a"}).status == 200
        assert service.post({"events": events}, BATCH).status == 200
        total: int = service.wait_for_total(3)["total_events"]
        home = service.get("/dashboard", token=None).body.decode()
        assets = re.findall(r'(?:src|href)="(/dashboard/[^"]+)"', home)
        assert assets
        for path in (*READS, *FILES, *assets):
            answer = service.get(path)
            assert (answer.status, bool(answer.body)) == (200, True), path
        assert service.stop() == 0
    finally:
        service.end()
    return total


def main() -> None:
    """Try the wheel in a folder."""
    parser = argparse.ArgumentParser(description="Install a wheel into an empty environment, and serve from it.")
    parser.add_argument("folder", type=Path, help="where the wheel is")
    [wheel] = parser.parse_args().folder.absolute().glob("*.whl")
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = install(wheel, folder)
        where = "import schemas, service; print(schemas.__file__, service.__file__)"
        found = subprocess.run(
            [programs / "python", "-c", where], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
        assert all(path.startswith(str(folder)) for path in found.split()), found
        total = serve(programs, folder)
    print(f"{wheel.name}: installed into an empty environment, it stored and counted {total} events")


if __name__ == "__main__":
    main()
