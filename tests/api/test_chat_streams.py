"""Streams of `/v1/chat/completions`: chunks, usage, errors as events, several answers, clients that leave.

The engine is played: its tokens have the log-probability -0.5. Streams to the byte are in `golden/`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai_requests import CHAT, HI, Played, chat, play, said, script, texts_by_index

from http_driver import AsgiCall
from ranvier.core import Event, FailEvent, FinishEvent, TokenChoice, TokenLogprob
from ranvier.service import GenerateParameters, GenerationService, ServiceLimits
from serving import END, LIMITS, MARK, HandEngine, Script, make_service, until

DONE = b"data: [DONE]\n\n"


def stream(*scripts: Script, **fields: Any) -> Played:
    return play(CHAT, chat(stream=True, **fields), *scripts)


def choices(found: Played) -> list[dict[str, Any]]:
    """The choice of each event, which has one."""
    return [choice for event in found.events for (choice,) in [event["choices"]]]


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "http_status_code": 422}}


# Chunks


def test_each_token_is_one_chunk_and_the_last_has_the_reason() -> None:
    found = stream()
    assert all(
        list(event) == ["object", "id", "created", "model", "system_fingerprint", "choices", "usage"]
        for event in found.events
    )
    assert {(event["object"], event["id"], event["usage"]) for event in found.events} == {
        ("chat.completion.chunk", "", None)
    }
    assert choices(found) == [
        {"index": 0, "delta": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": reason}
        for text, reason in (("H", None), ("i", None), ("", "stop"))
    ]


@pytest.mark.parametrize(("given", "shown"), [("tgi", "ranvier/scripted"), (None, "ranvier/scripted"), ("m", "m")])
def test_every_chunk_names_the_model(given: str | None, shown: str) -> None:
    assert {event["model"] for event in stream(model=given).events} == {shown}


def test_special_tokens_are_sent_as_chunks_without_text() -> None:
    texts = [choice["delta"]["content"] for choice in choices(stream([72, MARK, 105, END]))]
    assert texts == ["H", "", "i", ""]


def test_a_character_of_several_tokens_comes_whole() -> None:
    texts = [choice["delta"]["content"] for choice in choices(stream(script("é!")))]
    assert texts == ["", "é", "!", ""]


@pytest.mark.parametrize(
    ("fields", "reason"), [({"max_tokens": 2}, "length"), ({"stop": "i"}, "stop_sequence"), ({}, "stop")]
)
def test_finish_reasons_are_those_of_whole_replies(fields: dict[str, Any], reason: str) -> None:
    reasons = [choice["finish_reason"] for choice in choices(stream(**fields))]
    assert reasons[-1] == reason
    assert set(reasons[:-1]) == {None}


def test_log_probabilities_come_with_each_chunk() -> None:
    top = (TokenLogprob(72, -0.25), TokenLogprob(END, -2.0))
    found = choices(stream([TokenChoice(72, -0.25, top), END], logprobs=True, top_logprobs=2))
    shown = [{"token": "H", "logprob": -0.25}, {"token": "<|end|>", "logprob": -2.0}]
    assert [choice["logprobs"] for choice in found] == [
        {"content": [{"token": "H", "logprob": -0.25, "top_logprobs": shown}]},
        {"content": [{"token": "<|end|>", "logprob": -0.5, "top_logprobs": []}]},
    ]


def test_the_headers_tell_what_is_known_before_the_first_token() -> None:
    headers = stream().reply.headers
    assert {name: value for name, value in headers.items() if name not in {"content-type", "vary"}} == {
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-compute-type": "cpu",
        "x-compute-characters": "2",
    }


# Usage


def test_usage_comes_in_one_more_chunk_without_choices() -> None:
    *chunks, last = stream(stream_options={"include_usage": True}).events
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert list(last) == list(chunks[0])


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
def test_usage_comes_only_when_asked_for(options: Any) -> None:
    assert all(len(event["choices"]) == 1 for event in stream(stream_options=options).events)


def test_usage_of_several_answers_counts_the_prompt_once() -> None:
    found = stream(script("one"), HI, n=2, stream_options={"include_usage": True})
    assert found.events[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}


# Several answers


def test_several_answers_are_told_apart_by_their_index() -> None:
    found = stream(script("one"), script("two"), HI, n=3, seed=7)
    assert texts_by_index(found.events) == {0: "one", 1: "two", 2: "Hi"}
    reasons = {choice["index"]: choice["finish_reason"] for choice in choices(found)}
    assert reasons == {0: "stop", 1: "stop", 2: "stop"}
    assert [request.sampling.seed for request in found.engine.requests] == [7, 8, 9]
    assert found.counts == {"requests": 4, "success": 3}


def test_more_answers_than_permits_are_refused_before_the_stream_starts() -> None:
    """A regression: 4294967295 answers were begun one by one."""
    found = stream(n=2**32 - 1)
    text = "Input validation error: `n` must be <= 128, the `max_concurrent_requests`. Given: 4294967295"
    assert found.refusal == (422, "validation", text)


def test_an_answer_without_a_permit_is_an_error_event_and_the_others_go_on() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=2))
        held = asyncio.ensure_future(anext(service.stream("a", GenerateParameters())))
        await until(lambda: len(engine.requests) == 1, "one permit is taken")
        call = AsgiCall(service, CHAT, chat(stream=True, n=2))
        assert (await call.start())["status"] == 200
        assert json.loads((await call.frame()).removeprefix(b"data: ")) == error("Model is overloaded")
        engine.say(1, "H")
        engine.end(1)
        assert b'"content":"H"' in await call.frame()
        assert b'"finish_reason":"stop"' in await call.frame()
        assert [await call.frame(), await call.frame()] == [DONE, b""]
        await call.done()
        assert service.num_in_flight == 1
        held.cancel()

    asyncio.run(main())


# Errors


def test_an_overlong_prompt_is_an_error_event() -> None:
    """The golden case: the stream is 200 all the same and ends with `[DONE]`."""
    found = play(CHAT, chat(said("x" * 33), stream=True), limits=LIMITS)
    text = "Input validation error: `inputs` must have less than 32 tokens. Given: 33"
    assert found.events == [error(text)]
    assert found.counts == {"requests": 2, "validation": 1}


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (FailEvent("", "out of luck"), "Request failed during generation: Server error: out of luck"),
        (FinishEvent("", "cancelled"), "Incomplete generation stream"),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error_that_always_says_422(
    ending: FailEvent | FinishEvent, message: str
) -> None:
    def end(request_id: str) -> Event:
        return type(ending)(request_id, ending.message if isinstance(ending, FailEvent) else ending.reason)  # type: ignore[arg-type]  # one of each

    found = play(CHAT, chat(stream=True, stream_options={"include_usage": True}), list(b"H"), ending=end)
    first, last = found.events
    assert first["choices"][0]["delta"]["content"] == "H"
    assert last == error(message)


def test_parameters_outside_their_limits_are_error_events() -> None:
    assert stream(temperature=-1).events == [error("Input validation error: `temperature` must be strictly positive")]
    assert stream(top_logprobs=6).events == [
        error("Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 6")
    ]


def test_overload_draining_and_a_lost_engine_are_error_events() -> None:
    async def message(prepare: Any) -> Any:
        engine = HandEngine()
        service = make_service(engine, limits=ServiceLimits(max_concurrent_requests=1))
        prepare(engine, service)
        call = AsgiCall(service, CHAT, chat(stream=True))
        assert (await call.start())["status"] == 200
        frames = [await call.frame(), await call.frame(), await call.frame()]
        assert frames[1:] == [DONE, b""]
        return json.loads(frames[0].removeprefix(b"data: "))

    def lost(engine: HandEngine, service: GenerationService) -> None:
        engine.is_healthy = False

    def draining(engine: HandEngine, service: GenerationService) -> None:
        service.drain()

    async def main() -> None:
        text = "the server is shutting down; send the request to another replica"
        assert await message(draining) == error(text)
        assert await message(lost) == error("unhealthy")

    asyncio.run(main())


# Clients that leave


@pytest.mark.parametrize("num_frames", [0, 1, 3])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_frees_every_slot_and_permit(n: int, num_frames: int) -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, CHAT, chat(stream=True, n=n))
        await call.start()
        await until(lambda: len(engine.requests) == n, "all are with the engine")
        assert service.num_in_flight == n
        for index in range(n):
            engine.say(index, "abc")
        for _ in range(num_frames):
            await call.frame()
        call.leave()
        await call.done()
        await until(lambda: engine.num_open == 0, "all are cancelled")
        assert sorted(engine.cancelled) == sorted(request.request_id for request in engine.requests)
        assert service.num_in_flight == 0
        assert service.metrics.request_failure.value(err="dropped") == n

    asyncio.run(main())


@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_before_its_whole_reply_frees_every_slot_and_permit(n: int) -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, CHAT, chat(n=n))
        await until(lambda: len(engine.requests) == n, "all are with the engine")
        call.leave()
        await call.done()
        await until(lambda: engine.num_open == 0, "all are cancelled")
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_one_answer_of_several_that_fails_leaves_the_others_whole() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, CHAT, chat(stream=True, n=2, stream_options={"include_usage": True}))
        await call.start()
        await until(lambda: len(engine.requests) == 2, "both are with the engine")
        engine.fail(0, "no")
        failure = json.loads((await call.frame()).removeprefix(b"data: "))
        assert failure == error("Request failed during generation: Server error: no")
        engine.end(1)
        last, usage = [json.loads((await call.frame()).removeprefix(b"data: ")) for _ in range(2)]
        assert (last["choices"][0]["index"], last["choices"][0]["finish_reason"]) == (1, "stop")
        assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        assert await call.frame() == DONE

    asyncio.run(main())
