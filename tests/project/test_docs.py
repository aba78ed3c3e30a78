"""The documentation says what the code does: tables are compared, links followed, commands and queries run."""

import asyncio
import configparser
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.openapi import document
from schemas.rows import COLUMNS, CORRECTED_TIMESTAMP
from service import errors
from service.config import Settings, variable
from service.server.app import create_app
from service.server.parts import Parts
from service.spool.data_dir import DataDir
from service.store.dsn import parse_dsn
from service.store.store import Store
from service.store.views import shipped_views
from service.telemetry.metrics import Metrics
from tests.machine import find
from tests.support.clickhouse import query
from tests.support.service import READ, WRITE, Service

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOCAL = "http://127.0.0.1:8080"


def table(page: Path) -> dict[str, list[str]]:
    """The rows of all tables of a page whose first cell is code: that code → the other cells."""
    lines = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    return {first.strip("`"): [cell.strip() for cell in others] for first, *others in lines}


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# -- settings, routes, errors, columns ----------------------------------------------------------


@pytest.mark.parametrize("field", Settings.model_fields)
def test_setting_has_a_row_with_its_default_and_what_it_takes(field: str) -> None:
    info = Settings.model_fields[field]
    default = info.get_default()
    shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
    default_cell, _, takes_cell = table(DOCS / "settings.md")[variable(field)]
    assert default_cell == ("none" if shown in (None, "", ()) else f"`{shown}`")
    assert isinstance(info.json_schema_extra, dict)
    assert takes_cell == info.json_schema_extra["expects"]


def test_no_other_setting_is_documented() -> None:
    documented = {name for name in table(DOCS / "settings.md") if name.startswith("ANALYTICS_")}
    assert documented == {variable(field) for field in Settings.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_every_variable_that_a_page_names_is_a_setting(page: Path) -> None:
    named = set(re.findall(r"ANALYTICS_[A-Z_]*[A-Z]", page.read_text())) - {"ANALYTICS_TEST"}
    assert named <= {variable(field) for field in Settings.model_fields}


async def test_every_route_of_the_application_is_documented(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    store = Store(parse_dsn("chdb://", tmp_path), migrating=False)
    app = create_app(Parts(Settings(), data, {}, store).context)
    data.close()
    served = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    text = (DOCS / "api.md").read_text()
    for method, path in served:
        if method != "HEAD":
            assert f"`{method} {path}`" in text or (
                path.startswith(("/docs/", "/dashboard/")) and f"`{path}`" in text
            ), path
    routes = {tuple(name.split()) for name in table(DOCS / "api.md") if name.startswith(("GET ", "POST "))}
    assert routes <= served


def test_statuses_of_each_route_are_those_of_the_openapi_document() -> None:
    rows = table(DOCS / "api.md")
    for path, operations in document("0")["paths"].items():
        for method, operation in operations.items():
            scope, statuses = rows[f"{method.upper()} {path}"]
            assert statuses == ", ".join(sorted(operation["responses"]))
            assert (scope != "none") == ("security" in operation)


ERRORS = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.AnalyticsError)]


@pytest.mark.parametrize("error", ERRORS)
def test_error_is_documented_and_in_the_tree(error: type[errors.AnalyticsError]) -> None:
    in_tree = re.search(rf"\b{error.__name__}\b(?: +(\d{{3}}))?", errors.__doc__ or "")
    assert in_tree
    text = (DOCS / "errors.md").read_text()
    if issubclass(error, errors.RequestError):
        assert table(DOCS / "errors.md")[error.__name__][0] == str(error.status)
        assert in_tree[1] in (None, str(error.status))
    assert f"`{error.__name__}`" in text


def test_every_metric_is_documented_and_no_other() -> None:
    rows = {name: row for name, row in table(DOCS / "metrics.md").items() if not name.startswith("Analytics")}
    assert rows == {
        one.name: [one.kind, ", ".join(f"`{label}`" for label in one.labels) or "none", one.help]
        for one in Metrics().all
    }


def test_every_alert_is_documented_with_its_severity_and_no_other() -> None:
    rules = re.findall(r"alert: (\w+)\n.*?severity: (\w+)", (DOCS / "alerts.yml").read_text(), re.DOTALL)
    rows = {name: row for name, row in table(DOCS / "metrics.md").items() if name.startswith("Analytics")}
    assert [(name, severity) for name, (severity, *_) in rows.items()] == rules


def test_every_column_is_documented_with_type_and_comment() -> None:
    rows, columns = table(DOCS / "table.md"), [*COLUMNS, CORRECTED_TIMESTAMP]
    assert {name: rows.get(name) for name, *_ in columns} == {
        name: [f"`{type_}`", text] for name, type_, text in columns
    }
    assert [name for name in rows if name in {column.name for column in columns}] == [name for name, *_ in columns]


# -- the map, the dependencies, the links -------------------------------------------------------


def test_the_map_names_every_file_and_no_other() -> None:
    mapped = {name for name in table(DOCS / "architecture.md") if name.startswith(("schemas/", "service/"))}
    files = {
        str(path.relative_to(ROOT))
        for package in ("schemas", "service")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert mapped == files


def test_every_dependency_has_its_reason() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    lines = "\n".join([config["options"]["install_requires"], *config["options.extras_require"].values()])
    required = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines.splitlines() if line}
    page = (DOCS / "adr/0005-dependencies.md").read_text()
    reasons = set(re.findall(r"`([\w.-]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    assert reasons == required


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s:]+)\)", page.read_text())
    }
    assert set(PAGES) - linked <= {ROOT / "README.md"}


def test_every_test_that_a_page_names_exists() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    paths = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")]
    files = {*paths, *(Path(path).name for path in paths)}
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text()):
            assert f"def {name}(" in text, (page, name)
        for name in re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)`", page.read_text()):
            assert name in files, (page, name)


# -- commands and queries -----------------------------------------------------------------------


def test_curl_commands_answer_200(service: Service) -> None:
    find("curl")
    commands = [text for page in PAGES for text in blocks(page, "sh") if text.startswith("curl")]
    assert sum(text.startswith("curl") for text in blocks(ROOT / "README.md", "sh")) == 4
    only_status = (
        "curl() { command curl --silent --show-error --output /dev/null --write-out '%{http_code}' \"$@\"; }\n"
    )
    for command in commands:
        assert LOCAL in command
        script = only_status + command.replace(LOCAL, f"http://127.0.0.1:{service.port}")
        environment = {"PATH": os.environ["PATH"], "WRITE": WRITE, "READ": READ}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=30)
        assert (done.stdout, done.stderr) == ("200", ""), command


STORY: list[dict[str, Any]] = [
    {"event_name": "page_view", "page_url": "https://example.com/"},
    {"event_name": "signup"},
    {"event_name": "order_placed", "properties": {"total": 19.90}},
]
_ORDER = {"order_id": "o-1", "symbol": "ACME", "side": "buy", "quantity": "100", "price": "19.90", "latency_ms": 12.5}
TRADING: list[dict[str, Any]] = [
    {"event_name": "page_view", "category": "page_view", "page_url": "https://example.com/trade"},
    {"event_name": "order_submitted", "properties": _ORDER, "sequence": 1},
    {"event_name": "order_filled", "properties": _ORDER, "sequence": 3},
    {"event_name": "order_rejected", "properties": _ORDER | {"order_id": "o-2", "reason": "market_closed"}},
    {"event_name": "web_vitals", "page_url": "https://example.com/trade", "properties": {"lcp": 9000}},
    {"event_name": "error", "category": "error", "properties": {"message": "no", "release": "1.0"}},
]


def test_queries_for_analysts_run_and_find_something(make_service: Callable[..., Service], server_dsn: str) -> None:
    service = make_service(server_dsn).start()
    start = datetime.now(UTC) - timedelta(seconds=20)
    story = [one | {"session_id": "s-17"} for one in STORY]
    story += [one | {"session_id": "t", "user_id": "u-5"} for one in TRADING]
    story = [one | {"timestamp": (start + timedelta(seconds=index)).isoformat()} for index, one in enumerate(story)]
    assert service.post_batch(story).json["events_queued"] == len(story)
    service.wait_for_total(len(story))
    of_views = {sql: query(server_dsn, sql) for sql in blocks(DOCS / "views.md", "sql")}
    found = {sql: query(server_dsn, sql) for sql in blocks(DOCS / "table.md", "sql")}
    selects = [sql for sql in found if sql.startswith("SELECT")]
    assert len(selects) == 20
    assert not [sql for sql in selects if not found[sql]]
    assert not [sql for sql, rows in of_views.items() if sql.startswith("SELECT") and not rows]
    by_text = {text: rows for sql, rows in found.items() for text in ("windowFunnel", "simpleJSON") if text in sql}
    assert by_text["windowFunnel"] == [[1, 2], [2, 1], [3, 1]]
    assert by_text["simpleJSON"] == [["order_placed", 1, 19.9, 19.9]]
    from_projection = next(sql for sql in selects if "intDiv" in sql)
    assert "(by_hour)" in str(query(server_dsn, f"EXPLAIN {from_projection}"))
    left = query(server_dsn, "SELECT session_id, count() FROM events GROUP BY ALL")
    assert left == [["t", len(TRADING)]], "s-17 was deleted"
    [script] = blocks(DOCS / "table.md", "python")
    script = script.replace("http://reader:password@127.0.0.1:8123/analytics", server_dsn)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "ACME" in done.stdout, done.stderr


def test_every_view_is_documented_with_its_columns(server_dsn: str) -> None:
    store = Store(parse_dsn(server_dsn, Path("unused")), migrating=True)

    async def described() -> dict[str, dict[str, str]]:
        await store.prepare()
        arguments = "since = '2026-01-01', until = '2026-01-02'"
        more = {"funnel": ", steps = ['a'], seconds = 1"}
        found = {}
        for view in shipped_views():
            rows = await store.query(f"DESCRIBE (SELECT * FROM {view.name}({arguments}{more.get(view.name, '')}))")
            found[view.name] = {name: f"`{kind}`" for name, kind, *_ in rows}
        await store.close()
        return found

    columns = asyncio.run(described())
    text = (DOCS / "views.md").read_text()
    assert sorted(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == sorted(columns)
    for view in shipped_views():
        section = text.split(f"\n## {view.name}\n")[1].split("\n## ")[0]
        rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
        assert {name.strip("`"): kind for name, kind, _ in rows} == columns[view.name]
        said = " ".join(view.about.split("\n" + next(iter(columns[view.name])) + ": ")[0].split())
        assert said in section
        assert [f"{name.strip('`')}: {meaning}" for name, _, meaning in rows] == view.about.splitlines()[-len(rows) :]
