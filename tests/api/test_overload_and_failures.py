"""What clients are told when the server cannot serve them: 429, 424, 500, 503."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from http_driver import client_of
from ranvier.core import Event, FailEvent, FinishEvent
from ranvier.service import ServiceLimits
from serving import HandEngine, PlayingEngine, make_service, until

OVERLOADED = '{"error":"Model is overloaded","error_type":"overloaded"}'
DRAINING = '{"error":"the server is shutting down; send the request to another replica","error_type":"healthcheck"}'
UNHEALTHY = '{"error":"unhealthy","error_type":"healthcheck"}'
RETRY_AFTER = {OVERLOADED: "1", DRAINING: "1", UNHEALTHY: "5"}
BODY = {"inputs": "a", "parameters": {}}
STREAMS: list[tuple[str, dict[str, Any]]] = [("/generate_stream", {}), ("/", {"stream": True})]


def assert_json_error(reply: httpx.Response, status: int, text: str) -> None:
    assert (reply.status_code, reply.text) == (status, text)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers.get("retry-after") == RETRY_AFTER.get(text)
    assert not [name for name in reply.headers if name.startswith("x-")]


def assert_error_event(reply: httpx.Response, text: str) -> None:
    assert (reply.status_code, reply.text) == (200, f"data: {text}\n\n")
    assert reply.headers["content-type"] == "text/event-stream"


def test_more_requests_than_permits_are_told_that_the_model_is_overloaded() -> None:
    """A whole reply has its status; a stream is 200 all the same and says it in an event."""

    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=2))
        async with client_of(service) as client:
            open_replies = [
                asyncio.ensure_future(client.post(path, json=BODY)) for path in ("/generate", "/generate_stream")
            ]
            await until(lambda: len(engine.requests) == 2, "two in flight")
            for path in ("/generate", "/"):
                assert_json_error(await client.post(path, json=BODY), 429, OVERLOADED)
            for path, extra in STREAMS:
                assert_error_event(await client.post(path, json={**BODY, **extra}), OVERLOADED)
            for route in ("/health", "/info", "/metrics"):
                assert (await client.get(route)).status_code == 200
            for index in range(2):
                engine.say(index, "ok")
                engine.end(index)
            assert [reply.status_code for reply in await asyncio.gather(*open_replies)] == [200, 200]
            assert (service.num_in_flight, engine.num_open) == (0, 0)
            last = asyncio.ensure_future(client.post("/generate", json=BODY))
            await until(lambda: len(engine.requests) == 3, "served again")
            engine.end(2)
            assert (await last).status_code == 200

    asyncio.run(main())


def test_best_of_needs_a_permit_for_each_sequence() -> None:
    async def main() -> None:
        service = make_service(PlayingEngine([256]), limits=ServiceLimits(max_concurrent_requests=1))
        async with client_of(service) as client:
            body = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
            assert_json_error(await client.post("/generate", json=body), 429, OVERLOADED)
            assert (await client.post("/generate", json=BODY)).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/generate", "/"])
@pytest.mark.parametrize(
    ("ending", "status", "text"),
    [
        (
            FailEvent("", "out of luck"),
            424,
            '{"error":"Request failed during generation: Server error: out of luck","error_type":"generation"}',
        ),
        (
            FinishEvent("", "cancelled"),
            500,
            '{"error":"Incomplete generation","error_type":"incomplete_generation"}',
        ),
    ],
)
def test_a_whole_reply_that_cannot_be_finished_is_an_error(
    path: str, ending: FailEvent | FinishEvent, status: int, text: str
) -> None:
    def end(request_id: str) -> Event:
        return replace(ending, request_id=request_id)

    async def main() -> None:
        service = make_service(PlayingEngine(list(b"Hi"), ending=end))
        async with client_of(service) as client:
            assert_json_error(await client.post(path, json=BODY), status, text)
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_while_draining_new_requests_are_refused_and_those_in_flight_finish() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        async with client_of(service) as client:
            whole, stream = (
                asyncio.ensure_future(client.post(path, json=BODY)) for path in ("/generate", "/generate_stream")
            )
            await until(lambda: len(engine.requests) == 2, "two in flight")
            service.drain()
            for path in ("/generate", "/"):
                assert_json_error(await client.post(path, json=BODY), 503, DRAINING)
            for path, extra in STREAMS:
                assert_error_event(await client.post(path, json={**BODY, **extra}), DRAINING)
            assert_json_error(await client.get("/health"), 503, UNHEALTHY)
            for index in range(2):
                engine.say(index, "ok")
                engine.end(index)
            assert (await whole).json() == {"generated_text": "ok"}
            assert (await stream).text.count('"generated_text":"ok"') == 1

    asyncio.run(main())


def test_without_an_engine_requests_are_refused() -> None:
    async def main() -> None:
        engine = HandEngine()
        engine.is_healthy = False
        async with client_of(make_service(engine)) as client:
            for path in ("/generate", "/"):
                assert_json_error(await client.post(path, json=BODY), 503, UNHEALTHY)
            for path, extra in STREAMS:
                assert_error_event(await client.post(path, json={**BODY, **extra}), UNHEALTHY)

    asyncio.run(main())
