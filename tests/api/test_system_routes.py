"""Health, info, metrics; unknown paths and methods; the API key; cross-origin requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import httpx
import pytest

from http_driver import OPTIONS, client_of
from ranvier import __version__
from ranvier.api import ApiOptions
from ranvier.compose.router import make_metrics
from ranvier.service import GenerationService, ServiceLimits
from serving import END, LIMITS, HandEngine, PlayingEngine, make_service, model_text

T = TypeVar("T")
BODY = {"inputs": "a", "parameters": {}}


def with_client(
    use: Callable[[httpx.AsyncClient], Awaitable[T]],
    *,
    options: ApiOptions = OPTIONS,
    service: GenerationService | None = None,
) -> T:
    async def main() -> T:
        async with client_of(service or make_service(PlayingEngine([97, END])), options) as client:
            return await use(client)

    return asyncio.run(main())


def request(
    method: str, path: str, headers: dict[str, str] | None = None, options: ApiOptions = OPTIONS
) -> httpx.Response:
    body = BODY if method == "POST" else None
    return with_client(lambda client: client.request(method, path, json=body, headers=headers), options=options)


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
def test_a_healthy_server_answers_with_nothing(path: str) -> None:
    reply = request("GET", path)
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")
    assert "content-type" not in reply.headers


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
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
    assert reply.headers["content-type"] == "application/json"


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


@pytest.mark.parametrize("path", ["/", "/health", "/ping", "/info", "/metrics"])
def test_what_answers_get_answers_head_without_a_body(path: str) -> None:
    reply = request("HEAD", path)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/unknown", "/generate/", "/health/", "/info/", "/Generate", "/v2", "/generate_stream/x"]
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
        ("PUT", "/", "GET, HEAD, POST"),
        ("OPTIONS", "/generate", "POST"),
    ],
)
def test_a_wrong_method_is_an_empty_405_that_names_the_right_ones(method: str, path: str, allow: str) -> None:
    """The root is a regression: it named only the methods of its first route."""
    reply = request(method, path)
    assert (reply.status_code, reply.content, reply.headers["allow"]) == (405, b"", allow)


LOCKED = replace(OPTIONS, api_key="Key-1")


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Key-1"},
        {"authorization": "Bearer Key-2"},
        {"authorization": "Bearer Key-1x"},
        {"authorization": "Bearer key-1"},
        {"authorization": "Basic Key-1"},
        {"authorization": "Bearer Bearer Key-1"},
        {"x-api-key": "Key-1"},
    ],
)
def test_without_the_key_protected_routes_are_an_empty_401(path: str, headers: dict[str, str]) -> None:
    reply = request("POST", path, headers, LOCKED)
    assert (reply.status_code, reply.content) == (401, b"")
    assert "content-type" not in reply.headers


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_with_the_key_they_are_served_whatever_the_letter_case_of_the_scheme(path: str, scheme: str) -> None:
    assert request("POST", path, {"authorization": f"{scheme} Key-1"}, LOCKED).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/ping", "/info", "/metrics"])
def test_what_tells_about_the_server_needs_no_key(path: str) -> None:
    assert request("GET", path, {}, LOCKED).status_code == 200


def test_the_key_is_asked_for_before_the_body_is_looked_at_and_after_the_method() -> None:
    async def use(client: httpx.AsyncClient) -> tuple[int, int]:
        return (await client.post("/generate", content=b"{")).status_code, (await client.get("/generate")).status_code

    assert with_client(use, options=LOCKED) == (401, 405)


PREFLIGHT = {
    "origin": "https://a.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type",
}


@pytest.mark.parametrize("options", [OPTIONS, LOCKED])
def test_any_origin_may_ask_unless_some_are_named(options: ApiOptions) -> None:
    """The outermost layer: a preflight of a protected route is answered without a key."""
    reply = request("OPTIONS", "/generate", PREFLIGHT, options)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    assert set(reply.headers["access-control-allow-methods"].split(", ")) == {"GET", "POST"}
    assert "content-type" in reply.headers["access-control-allow-headers"].lower()


def test_a_browser_may_send_the_key() -> None:
    """An extension: TGI allows `content-type` alone, so its key cannot be used from a browser."""
    headers = PREFLIGHT | {"access-control-request-headers": "authorization,content-type"}
    assert request("OPTIONS", "/generate", headers, LOCKED).status_code == 200


def test_replies_carry_the_origin() -> None:
    origin = {"origin": "https://a.example"}
    assert request("POST", "/generate", origin).headers["access-control-allow-origin"] == "*"
    assert request("POST", "/generate", origin, LOCKED).headers["access-control-allow-origin"] == "*"


def test_named_origins_are_echoed_and_others_are_not() -> None:
    options = replace(OPTIONS, cors_allow_origin=("https://a.example", "https://b.example"))
    allowed = request("POST", "/generate", {"origin": "https://b.example"}, options)
    assert allowed.headers["access-control-allow-origin"] == "https://b.example"
    other = request("POST", "/generate", {"origin": "https://c.example"}, options)
    assert other.status_code == 200
    assert "access-control-allow-origin" not in other.headers


def test_a_star_among_the_named_origins_means_any() -> None:
    options = replace(OPTIONS, cors_allow_origin=("*",))
    reply = request("POST", "/generate", {"origin": "https://c.example"}, options)
    assert reply.headers["access-control-allow-origin"] == "*"
