"""``/tracker.js`` as it is served, and that it is what its source builds; the tracker's own unit tests."""

import gzip
import subprocess
from pathlib import Path

import pytest

from tests.machine import find
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
TRACKER = ROOT / "tracker"
BUILT = ROOT / "service/static/tracker.js"


def npm(*arguments: str | Path) -> None:
    """Run a command of npm on the tracker's package; it knows where Node.js is."""
    done = subprocess.run([find("npm"), *arguments], cwd=TRACKER, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, f"{done.stdout[-5000:]}{done.stderr[-5000:]}"


def test_the_script_is_what_its_source_builds(tmp_path: Path) -> None:
    npm("exec", "--call", f"node build.js {tmp_path}")
    assert (tmp_path / "tracker.js").read_bytes() == BUILT.read_bytes(), "run `make tracker`"


def test_the_script_is_under_3_kb() -> None:
    assert len(gzip.compress(BUILT.read_bytes(), 9)) < 3000


@pytest.mark.timeout(240)  # of CPU it takes four seconds
def test_units() -> None:
    npm("test", "--silent")


def test_the_package_has_both_forms_and_types_and_no_more(tmp_path: Path) -> None:
    npm("pack", "--silent", "--pack-destination", tmp_path)
    [package] = tmp_path.iterdir()
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, check=True).stdout.split()
    names = {name.removeprefix("package/") for name in listed}
    assert {"dist/index.js", "dist/tracker.js", "dist/index.d.ts", "dist/types.d.ts", "LICENSE", "README.md"} <= names
    assert all(name.startswith("dist/") for name in names - {"LICENSE", "README.md", "package.json"})
    assert not [name for name in names if name.endswith(".ts") and not name.endswith(".d.ts")]


def test_the_lockfile_names_no_registry() -> None:
    assert '"resolved"' not in (TRACKER / "package-lock.json").read_text()


@pytest.mark.parametrize("encoding", ["gzip, deflate, br", "identity"])
def test_served_with_its_type_and_for_every_page(service: Service, encoding: str) -> None:
    answer = service.send("GET", "/tracker.js", Accept_Encoding=encoding, Origin="https://shop.example")
    packed = answer.headers.get("Content-Encoding") == "gzip"
    assert packed == ("gzip" in encoding)
    assert (gzip.decompress(answer.body) if packed else answer.body) == BUILT.read_bytes()
    assert answer.status == 200
    assert answer.headers.items() >= {
        ("Content-Type", "text/javascript; charset=utf-8"),
        ("Cache-Control", "public, max-age=600"),
        ("Vary", "Accept-Encoding"),
        ("X-Content-Type-Options", "nosniff"),
        ("Access-Control-Allow-Origin", "*"),
    }
    again = service.send("GET", "/tracker.js", Accept_Encoding=encoding, If_None_Match=answer.headers["Etag"])
    assert (again.status, again.body) == (304, b"")
    assert service.send("GET", "/tracker.js", If_None_Match='"another"').status == 200
    assert service.send("HEAD", "/tracker.js").headers["Content-Length"] == str(len(BUILT.read_bytes()))
