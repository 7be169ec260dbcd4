"""Health, info, models, metrics; unknown paths and methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
import pytest

from http_driver import client_of
from ranvier import __version__
from ranvier.compose.router import make_metrics
from ranvier.service import GenerationService, ServiceLimits
from serving import END, LIMITS, HandEngine, PlayingEngine, make_service, model_text, until

T = TypeVar("T")
BODY = {"inputs": "a", "parameters": {}}


def with_client(use: Callable[[httpx.AsyncClient], Awaitable[T]], *, service: GenerationService | None = None) -> T:
    async def main() -> T:
        async with client_of(service or make_service(PlayingEngine([97, END]))) as client:
            return await use(client)

    return asyncio.run(main())


def request(method: str, path: str) -> httpx.Response:
    body = BODY if method == "POST" else None
    return with_client(lambda client: client.request(method, path, json=body))


@pytest.mark.parametrize("path", ["/health", "/ping", "/", "/livez", "/readyz"])
def test_a_healthy_server_answers_with_nothing(path: str) -> None:
    reply = request("GET", path)
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")
    assert "content-type" not in reply.headers


@pytest.mark.parametrize("path", ["/health", "/ping", "/", "/readyz"])
def test_a_server_without_an_engine_is_unhealthy(path: str) -> None:
    async def use(client: httpx.AsyncClient) -> httpx.Response:
        engine.is_healthy = False
        sick = await client.get(path)
        engine.is_healthy = True
        assert (await client.get(path)).status_code == 200
        return sick

    engine = HandEngine()
    reply = with_client(use, service=make_service(engine))
    assert (reply.status_code, reply.text) == (503, '{"error":"unhealthy","error_type":"healthcheck"}')
    assert (reply.headers["content-type"], reply.headers["retry-after"]) == ("application/json", "5")


def test_a_server_that_drains_lives_but_is_not_ready() -> None:
    async def use(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        service.drain()
        return await client.get("/livez"), await client.get("/readyz")

    service = make_service(HandEngine())
    live, ready = with_client(use, service=service)
    assert (live.status_code, live.content) == (200, b"")
    assert ready.status_code == 503
    assert ready.json() == {
        "error": "the server is shutting down; send the request to another replica",
        "error_type": "healthcheck",
    }
    assert ready.headers["retry-after"] == "1"


def test_a_server_without_an_engine_lives() -> None:
    engine = HandEngine()
    engine.is_healthy = False
    reply = with_client(lambda client: client.get("/livez"), service=make_service(engine))
    assert (reply.status_code, reply.content) == (200, b"")


def test_a_server_whose_permits_are_all_taken_is_ready() -> None:
    async def use(client: httpx.AsyncClient) -> list[int]:
        taken = asyncio.ensure_future(client.post("/generate", json=BODY))
        await until(lambda: service.num_in_flight == 1, "one in flight")
        statuses = [(await client.get(path)).status_code for path in ("/readyz", "/livez", "/health")]
        engine.end(0)
        await taken
        return statuses

    engine = HandEngine()
    service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=1))
    assert with_client(use, service=service) == [200, 200, 200]


def test_the_one_model_is_listed_as_openai_lists_models() -> None:
    reply = request("GET", "/v1/models")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert reply.text == (
        '{"object":"list","data":[{"id":"ranvier/scripted","object":"model","created":0,"owned_by":"ranvier/scripted"}]}'
    )


def test_info_tells_every_key_in_tgis_order() -> None:
    limits = ServiceLimits(
        max_concurrent_requests=11,
        max_best_of=3,
        max_stop_sequences=5,
        max_top_n_tokens=7,
        max_client_batch_size=6,
        validation_workers=1,
    )
    service = GenerationService(model_text(), HandEngine(), limits, make_metrics(LIMITS))
    reply = with_client(lambda client: client.get("/info"), service=service)
    assert reply.headers["content-type"] == "application/json"
    assert (reply.status_code, reply.text) == (
        200,
        '{"model_id":"ranvier/scripted","model_sha":"0123abc","model_pipeline_tag":null,"max_concurrent_requests":11,'
        '"max_best_of":3,"max_stop_sequences":5,"max_input_tokens":32,"max_total_tokens":64,"validation_workers":1,'
        f'"max_client_batch_size":6,"router":"text-generation-router","version":"{__version__}","sha":null,'
        '"docker_label":null}',
    )


def test_metrics_are_plain_text() -> None:
    async def use(client: httpx.AsyncClient) -> httpx.Response:
        assert (await client.post("/generate", json=BODY)).status_code == 200
        return await client.get("/metrics")

    reply = with_client(use)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert "\ntgi_request_count 1\n" in reply.text


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ping", "/livez", "/readyz", "/info", "/v1/models", "/metrics", "/docs/"]
)
def test_what_answers_get_answers_head_without_a_body(path: str) -> None:
    reply = request("HEAD", path)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/unknown", "/generate/", "/health/", "/info/", "/Generate", "/v3", "/generate_stream/x", "/v1/models/", "/v1"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_is_an_empty_404(path: str, method: str) -> None:
    """With a slash at its end a path is another one."""
    reply = request(method, path)
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (404, b"", "0")
    assert "location" not in reply.headers


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/generate", "POST"),
        ("HEAD", "/generate_stream", "POST"),
        ("PUT", "/generate", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/info", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("GET", "/tokenize", "POST"),
        ("POST", "/docs", "GET, HEAD"),
        ("POST", "/docs/docs.js", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD, POST"),
        ("OPTIONS", "/generate", "POST"),
    ],
)
def test_a_wrong_method_is_an_empty_405_that_names_the_right_ones(method: str, path: str, allow: str) -> None:
    """The root is a regression: it named only the methods of its first route."""
    reply = request(method, path)
    assert (reply.status_code, reply.content, reply.headers["allow"]) == (405, b"", allow)
