"""`/api-doc/openapi.json`: valid, complete, and true."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from openapi_differences import differences
from openapi_table import DIFFERENCES

from http_driver import OPTIONS, client_of
from ranvier.api.app import routes
from ranvier.api.context import ApiOptions
from ranvier.api.openapi import build_document, default_document, request_fields
from ranvier.api.openapi.fields import NOTES, note_of
from ranvier.service import ServiceLimits
from serving import LIMITS, HandEngine, make_service, scripted_service

# TGI's own document, version 3.3.6-dev0, commit db931fcf, Apache-2.0: `docs/openapi.json` of
# huggingface/text-generation-inference.
THEIRS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "tgi-openapi.json").read_text(encoding="utf-8"))
WITH_KEY = replace(OPTIONS, api_key="secret")
SERVICE_LIMITS = ServiceLimits(
    max_concurrent_requests=6, max_best_of=3, max_stop_sequences=2, max_top_n_tokens=4, max_client_batch_size=3
)
OPERATIONS = [
    (method, path, operation)
    for path, operations in default_document()["paths"].items()
    for method, operation in operations.items()
]


def get(
    path: str, headers: dict[str, str] | None = None, *, method: str = "GET", options: ApiOptions = OPTIONS
) -> httpx.Response:
    async def main() -> httpx.Response:
        async with client_of(make_service(HandEngine(), limits=SERVICE_LIMITS), options) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(main())


def post(path: str, *bodies: object) -> list[httpx.Response]:
    """What the scripted target replies to each of several bodies."""

    async def main() -> list[httpx.Response]:
        async with scripted_service(service_limits=SERVICE_LIMITS) as service, client_of(service) as client:
            return [await client.post(path, json=body) for body in bodies]

    return asyncio.run(main())


def served(options: ApiOptions = OPTIONS) -> dict[str, Any]:
    document: dict[str, Any] = get("/api-doc/openapi.json", options=options).json()
    return document


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize("options", [OPTIONS, WITH_KEY])
def test_the_document_keeps_to_the_schema_of_openapi_3_1(options: ApiOptions) -> None:
    document = served(options)
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere_and_every_part_is_used() -> None:
    document = served(WITH_KEY)
    used = set(references(document))
    named = {f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in document["components"][kind]}
    assert used - named == set()
    assert named - used == set()


def test_it_differs_from_tgis_document_only_where_the_table_says() -> None:
    assert sorted(differences(THEIRS, default_document())) == sorted(DIFFERENCES)


def test_operations_have_the_names_that_tgi_gave_them() -> None:
    ours = default_document()["paths"]
    for path, operations in THEIRS["paths"].items():
        for method, operation in operations.items():
            assert ours[path][method]["operationId"] == operation["operationId"]


def test_the_document_holds_every_route_and_nothing_else() -> None:
    found = set()
    for route in routes(make_service(HandEngine()), OPTIONS):
        assert route.methods is not None
        path = route.path.replace(":path}", "}")
        found |= {(method.lower(), path) for method in route.methods if method != "HEAD"}
    assert found == {(method, path) for method, path, _ in OPERATIONS}


def test_every_operation_says_what_it_does_under_a_name_of_its_own() -> None:
    assert all(len(operation["summary"]) > 8 and "`" not in operation["summary"] for _, _, operation in OPERATIONS)
    assert len({operation["operationId"] for _, _, operation in OPERATIONS}) == len(OPERATIONS)
    tags = {tag["name"] for tag in default_document()["tags"]}
    assert {tag for _, _, operation in OPERATIONS for tag in operation["tags"]} == tags


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_a_key_is_asked_for_where_the_document_says(method: str, path: str, operation: dict[str, Any]) -> None:
    asked = served(WITH_KEY)["paths"][path][method]
    concrete = path.replace("{name}", "").replace("{model}", "m").replace("{version}", "1")
    is_refused = get(concrete, method=method.upper(), options=WITH_KEY).status_code == 401
    assert is_refused == ("401" in asked["responses"]) == (asked.get("security") == [{"key": []}])
    assert "401" not in operation["responses"] and "security" not in operation


def test_the_scheme_is_there_only_with_a_key() -> None:
    assert served(WITH_KEY)["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "securitySchemes" not in served()["components"]
    assert "secret" not in json.dumps(served(WITH_KEY))


def test_a_client_that_has_the_document_does_not_get_it_again() -> None:
    reply = get("/api-doc/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    again = get("/api-doc/openapi.json", {"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = get("/api-doc/openapi.json", method="HEAD")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(reply.content)))


def test_bounds_are_those_of_the_running_server() -> None:
    parameters = served()["components"]["schemas"]["GenerateParameters"]["properties"]
    assert parameters["best_of"]["maximum"] == 3
    assert parameters["stop"]["maxItems"] == 2
    assert parameters["top_n_tokens"]["maximum"] == 4
    assert parameters["truncate"]["maximum"] == LIMITS.max_input_tokens
    assert (
        "maximum"
        not in build_document({}, has_key=False)["components"]["schemas"]["GenerateParameters"]["properties"]["best_of"]
    )


BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "GenerateParameters": ("/generate", {"inputs": "Hello"}),
    "ChatRequest": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    "CompletionRequest": ("/v1/completions", {"prompt": "Hello", "max_tokens": 1}),
}
_FITS_ONLY_A_LARGER_SLOT = ("max_new_tokens", "max_tokens", "max_completion_tokens")
_ALONE = {"best_of": {"do_sample": True}}


def bodies(schema: str, name: str, value: object) -> dict[str, Any]:
    base = BASES[schema][1]
    if schema == "GenerateParameters":
        return {**base, "parameters": {"max_new_tokens": 1, **_ALONE.get(name, {}), name: value}}
    return {**base, name: value}


def bounded(schema: str) -> list[tuple[str, list[Any], list[Any]]]:
    """Name of each bounded field of a body, its outermost values that are allowed, and the next ones that are not."""
    options = asdict(SERVICE_LIMITS) | {"max_input_tokens": LIMITS.max_input_tokens}
    found = []
    for name, value in build_document(options, has_key=False)["components"]["schemas"][schema]["properties"].items():
        step = 1e-6 if value.get("type") == ["number", "null"] else 1
        inside, outside = [], []
        for keyword, sign in (("minimum", 1), ("maximum", -1)):
            if keyword in value:
                inside.append(value[keyword])
                outside.append(value[keyword] - sign * step)
        for keyword, sign in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1)):
            if keyword in value:
                inside.append(value[keyword] + sign * step)
                outside.append(value[keyword])
        if "maxItems" in value:
            inside.append(["x"] * value["maxItems"])
            outside.append(["x"] * (value["maxItems"] + 1))
        if inside:
            found.append((name, inside, outside))
    return found


@pytest.mark.parametrize("schema", sorted(BASES))
def test_every_bound_is_true(schema: str) -> None:
    """The outermost values are served, the next ones refused."""
    path = BASES[schema][0]
    assert len(bounded(schema)) > 10
    for name, inside, outside in bounded(schema):
        replies = post(path, *(bodies(schema, name, value) for value in outside))
        assert [reply.status_code for reply in replies] == [422] * len(outside), (name, outside)
        if name in _FITS_ONLY_A_LARGER_SLOT:
            inside = inside[:1]
        replies = post(path, *(bodies(schema, name, value) for value in inside))
        assert [reply.status_code for reply in replies] == [200] * len(inside), (name, inside)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_examples_of_bodies_are_served(method: str, path: str, operation: dict[str, Any]) -> None:
    if "requestBody" not in operation:
        assert method == "get"
        return
    example = operation["requestBody"]["content"]["application/json"]["example"]
    concrete = path.replace("{model}", "m").replace("{version}", "1")
    reply = post(concrete, example)[0]
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("schema", sorted(BASES))
def test_examples_of_fields_are_served(schema: str) -> None:
    properties = default_document()["components"]["schemas"][schema]["properties"]
    examples = [(name, value["examples"][0]) for name, value in properties.items() if "examples" in value]
    assert len(examples) > 8
    for name, value in examples:
        assert post(BASES[schema][0], bodies(schema, name, value))[0].status_code == 200, name


def test_every_field_of_every_request_is_explained() -> None:
    for schema, fields in request_fields().items():
        assert [name for name in fields if note_of(schema, name) is None] == [], schema


def test_no_explanation_is_of_a_field_that_is_not_there() -> None:
    fields = request_fields()
    assert {
        schema: set(notes) - set(fields[schema]) for schema, notes in NOTES.items() if set(notes) - set(fields[schema])
    } == {}
