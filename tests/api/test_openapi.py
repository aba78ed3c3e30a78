"""``/openapi.json``: holds the contract, is a valid OpenAPI 3.1 document, and names every route."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from schemathesis.specs.openapi.definitions import OPENAPI_31

from schemas.openapi import document
from service import __version__
from service.api.web.dashboard import routes as dashboard_routes
from service.api.web.docs import routes as docs_routes
from service.config import Settings
from service.server.app import create_app
from service.server.parts import Parts
from service.spool.data_dir import DataDir
from service.store.dsn import parse_dsn
from service.store.store import Store
from tests.support.service import Service

pytestmark = pytest.mark.quick

CONTRACT = json.loads((Path(__file__).parents[1] / "contract" / "openapi.json").read_text("utf-8"))
DOCUMENT = document(__version__)
_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def _lacking(contract: Any, ours: Any, place: str = "#") -> Iterator[str]:
    """Where ours is not what the contract says. Ours may say more; lists have the same members, in any order."""
    if isinstance(contract, dict) and isinstance(ours, dict):
        for key, value in contract.items():
            if key in ours:
                yield from _lacking(value, ours[key], f"{place}/{key}")
            else:
                yield f"{place}/{key} is missing"
    elif isinstance(contract, list) and isinstance(ours, list) and len(contract) == len(ours):
        for index, value in enumerate(contract):
            if all(list(_lacking(value, one)) for one in ours):
                yield f"{place}/{index}: {value} is in none of {ours}"
    elif (type(contract), contract) != (type(ours), ours):
        yield f"{place} is {ours!r}, not {contract!r}"


def _operations(described: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method, path) for path, item in described["paths"].items() for method in item if method in _METHODS}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (one for key, one in value.items() if key == "$ref")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(one)


def test_document_says_all_that_the_contract_says_but_the_version_is_that_of_the_service() -> None:
    # `/docs` shows `info.version`, and whoever reads there "version" means the service that answers
    version = CONTRACT["info"]["version"]
    assert list(_lacking(CONTRACT, DOCUMENT)) == [f"#/info/version is {__version__!r}, not {version!r}"]
    assert DOCUMENT["info"]["x-contract-version"] == version


@pytest.mark.parametrize("name", sorted(CONTRACT["components"]["schemas"]))
def test_schema_of_the_contract_requires_the_same_fields(name: str) -> None:
    schemas = (one["components"]["schemas"][name] for one in (CONTRACT, DOCUMENT))
    contract, ours = (set(schema.get("required", ())) for schema in schemas)
    assert ours == contract


def test_document_is_valid_openapi_3_1() -> None:
    problems = Draft202012Validator(OPENAPI_31).iter_errors(DOCUMENT)
    assert [f"{one.json_path}: {one.message}" for one in problems] == []


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_schema_is_a_valid_json_schema(name: str) -> None:
    Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_every_reference_leads_to_something() -> None:
    resolver = Registry().with_resource("", Resource(DOCUMENT, DRAFT202012)).resolver()
    found = set(_references(DOCUMENT))
    assert "#/components/schemas/Event" in found
    for reference in found:
        assert resolver.lookup(reference).contents


def test_operations_have_the_names_that_generated_clients_use() -> None:
    paths = DOCUMENT["paths"]
    names = {(method, path): paths[path][method]["operationId"] for method, path in _operations(DOCUMENT)}
    assert names == {
        ("post", "/api/v1/analytics"): "track_event",
        ("post", "/api/v1/analytics/batch"): "track_batch",
        ("post", "/api/v1/analytics/beacon"): "track_beacon",
        ("get", "/api/v1/analytics/stats"): "get_stats",
        ("get", "/api/v1/analytics/activity"): "get_activity",
        ("get", "/api/v1/analytics/pipeline"): "get_pipeline",
        ("get", "/api/v1/analytics/refusals"): "get_refusals",
        ("get", "/api/v1/analytics/loss"): "get_loss",
        ("get", "/api/v1/analytics/health"): "get_health",
        ("get", "/livez"): "get_livez",
        ("get", "/readyz"): "get_readyz",
    }


def test_operations_that_need_a_token_say_what_is_answered_without() -> None:
    for method, path in _operations(DOCUMENT):
        operation = DOCUMENT["paths"][path][method]
        refusals = {"401", "403"} if path.startswith("/api") and not path.endswith("/health") else set()
        scheme = "BeaconToken" if path.endswith("/beacon") else "HTTPBearer"
        assert operation.get("security", []) == ([{scheme: []}] if refusals else [])
        assert operation["responses"].keys() & {"401", "403"} == refusals


async def test_every_route_but_metrics_and_those_for_people_and_pages_is_described(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    store = Store(parse_dsn("http://127.0.0.1:9/analytics", data.clickhouse), migrating=False)
    app = create_app(Parts(Settings(data_dir=tmp_path), data, {}, store).context)
    unlisted = {"/metrics", "/tracker.js", *(route.path for route in (*docs_routes(), *dashboard_routes("")))}
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource and route.resource.canonical not in unlisted and route.method != "HEAD"
    }
    await store.close()
    data.close()
    assert served == _operations(DOCUMENT)


def test_service_serves_the_document(service: Service) -> None:
    answer = service.get("/openapi.json", token=None)
    assert (answer.status, answer.headers["Content-Type"], answer.json) == (200, "application/json", DOCUMENT)
