"""Schemathesis against the running service: no 500, no answer outside the document, nothing invalid taken."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import wait_until
from tests.support.service import READ, Service

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.fixture
def both_scopes(make_service: Callable[..., Service], server_dsn: str) -> Service:
    """A running service with one token that may write and read, so that no request ends at the door."""
    return make_service(server_dsn, ANALYTICS_WRITE_TOKENS=READ).start()


def _run(service: Service, document: dict[str, Any], folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Schemathesis' report on the service as judged by the document, and what it printed."""
    folder.mkdir()
    (folder / "openapi.json").write_text(json.dumps(document))
    run = subprocess.run(
        [
            *(SCHEMATHESIS, "run", "openapi.json", "--url", f"http://127.0.0.1:{service.port}"),
            *("--header", f"Authorization: Bearer {READ}", "--checks", ",".join(CHECKS)),
            *("--generation-deterministic", "--continue-on-failure", "--no-color"),
            *("--report", "json", "--report-json-path", "report.json", *options),
        ],
        cwd=folder,  # away from any configuration, and whatever it leaves behind
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    output = run.stdout + run.stderr
    assert run.returncode in (0, 1), output
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["exit_code"] == run.returncode
    return report, output


def test_no_generated_request_is_answered_outside_the_document(both_scopes: Service, tmp_path: Path) -> None:
    document = both_scopes.get("/openapi.json", token=None).json
    # The contract names only text, but clients may send numbers too: without this, schemathesis calls them invalid.
    for model, field in (("Event", "timestamp"), ("EventBatch", "sent_at")):
        document["components"]["schemas"][model]["properties"][field]["anyOf"].append({"type": "number"})
    report, output = _run(
        both_scopes, document, tmp_path / "run", "--phases", "examples,coverage,fuzzing", "--max-examples", "60"
    )
    assert report["failures"] == [], output
    assert (report["exit_code"], report["complete"], report["test_cases"]["errored"]) == (0, True, 0), output
    assert report["operations"]["tested"] == 11
    assert [name for name, phase in report["phases"].items() if phase["status"] == "success"] == [
        "examples",
        "coverage",
        "fuzzing",
    ]
    assert report["test_cases"]["generated"] > 300
    assert wait_until(lambda: both_scopes.stats()["total_events"] > 20), "valid events are among the generated"
    assert "unexpected error" not in both_scopes.log()


def test_answer_outside_the_document_is_found(both_scopes: Service, tmp_path: Path) -> None:
    document = both_scopes.get("/openapi.json", token=None).json
    document["components"]["schemas"]["Probe"]["properties"]["status"] = {"type": "integer"}
    del document["paths"]["/readyz"]["get"]["responses"]["200"]
    report, output = _run(both_scopes, document, tmp_path / "run", "--phases", "coverage", "--include-path-regex", "z$")
    assert report["operations"]["tested"] == 2, output
    assert sorted((failure["title"], *failure["operations"]) for failure in report["failures"]) == [
        ("Response violates schema", "GET /livez"),
        ("Undocumented status code", "GET /readyz"),
    ], output
