"""Streams of `/v1/completions`: events of several texts told apart, usage, errors, clients that leave.

The engine is played: its tokens have the log-probability -0.5. Streams to the byte are in `golden/`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai_requests import COMPLETIONS, HI, Played, play, script

from http_driver import AsgiCall
from ranvier.core import Event, FailEvent, FinishEvent, TokenChoice, TokenLogprob
from ranvier.service import ServiceLimits
from serving import END, LIMITS, MARK, HandEngine, Script, make_service, until

DONE = b"data: [DONE]\n\n"
STREAM_KEYS = ["object", "id", "created", "choices", "model", "system_fingerprint"]
LAST_KEYS = ["object", "id", "created", "model", "system_fingerprint", "choices", "usage"]


def stream(prompt: Any, *scripts: Script, **fields: Any) -> Played:
    return play(COMPLETIONS, {"prompt": prompt, "stream": True, **fields}, *scripts)


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "http_status_code": 422}}


def texts(found: Played) -> dict[int, str]:
    joined: dict[int, str] = {}
    for event in found.events:
        for choice in event["choices"]:
            joined[choice["index"]] = joined.get(choice["index"], "") + choice["text"]
    return joined


def test_each_token_is_one_event_and_the_last_has_the_reason_and_the_usage() -> None:
    first, second, last = stream("Yo", model="mine").events
    assert (list(first), list(second), list(last)) == (STREAM_KEYS, STREAM_KEYS, LAST_KEYS)
    assert {(event["object"], event["id"], event["model"]) for event in (first, second, last)} == {
        ("text_completion", "", "ranvier/scripted")
    }
    assert first["choices"] == [{"index": 0, "text": "H", "logprobs": None, "finish_reason": ""}]
    assert list(first["choices"][0]) == ["index", "text", "logprobs", "finish_reason"]
    # The end token shows, and the reason has the name that TGI's own streams give it.
    assert last["choices"] == [{"index": 0, "text": "<|end|>", "logprobs": None, "finish_reason": "eos_token"}]
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


@pytest.mark.parametrize(
    ("fields", "reason"), [({"max_tokens": 2}, "length"), ({"stop": ["i"]}, "stop_sequence"), ({}, "eos_token")]
)
def test_finish_reasons(fields: dict[str, Any], reason: str) -> None:
    reasons = [event["choices"][0]["finish_reason"] for event in stream("Yo", **fields).events]
    assert reasons[-1] == reason
    assert set(reasons[:-1]) == {""}


def test_texts_are_raw_special_tokens_included() -> None:
    assert texts(stream("Yo", [72, MARK, 105, END])) == {0: "H<|mark|>i<|end|>"}


def test_several_prompts_are_told_apart_by_their_index_and_each_has_its_usage() -> None:
    found = stream(["a", "bb"], script("one"), script("2"))
    assert texts(found) == {0: "one<|end|>", 1: "2<|end|>"}
    usages = {event["choices"][0]["index"]: event["usage"] for event in found.events if "usage" in event}
    assert usages == {
        0: {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5},
        1: {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    }
    assert found.reply.headers["x-compute-characters"] == "3"
    assert found.counts == {"requests": 3, "success": 2}


def test_events_of_several_prompts_come_as_they_are_made() -> None:
    async def main() -> None:
        engine = HandEngine()
        call = AsgiCall(make_service(engine), COMPLETIONS, {"prompt": ["a", "b"], "stream": True})
        await call.start()
        await until(lambda: len(engine.requests) == 2, "both are with the engine")
        for index, character in ((1, "x"), (0, "y"), (1, "z")):
            engine.say(index, character)
            choice = json.loads((await call.frame()).removeprefix(b"data: "))["choices"][0]
            assert (choice["index"], choice["text"]) == (index, character)
        for index in (1, 0):
            engine.end(index)
            assert b'"finish_reason":"eos_token"' in await call.frame()
        assert [await call.frame(), await call.frame()] == [DONE, b""]

    asyncio.run(main())


def test_several_answers_to_several_prompts() -> None:
    found = stream(["a", "bb"], script("1"), script("2"), script("3"), HI, n=2, seed=5)
    assert texts(found) == {0: "1<|end|>", 1: "2<|end|>", 2: "3<|end|>", 3: "Hi<|end|>"}
    assert [request.sampling.seed for request in found.engine.requests] == [5, 6, 5, 6]
    assert [len(request.prompt_ids) for request in found.engine.requests] == [1, 1, 2, 2]


def test_the_sum_of_the_usage_comes_when_asked_for_and_counts_each_prompt_once() -> None:
    *_, last = stream(["a", "bb"], HI, n=2, stream_options={"include_usage": True}).events
    assert list(last) == LAST_KEYS
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}
    for options in (None, {}, {"include_usage": False}):
        assert all(event["choices"] for event in stream("a", stream_options=options).events)


def test_the_echo_comes_with_the_first_token_of_each_text() -> None:
    found = stream(["a ", "b "], HI, echo=True, n=2)
    assert texts(found) == {0: "a Hi<|end|>", 1: "a Hi<|end|>", 2: "b Hi<|end|>", 3: "b Hi<|end|>"}
    first = next(event for event in found.events if event["choices"][0]["index"] == 2)
    assert first["choices"][0]["text"] == "b H"


def test_log_probabilities_come_with_each_token_and_tell_where_it_starts() -> None:
    top = (TokenLogprob(72, -0.25), TokenLogprob(END, -2.0))
    played: Script = [TokenChoice(72, -0.25, top), *"é".encode(), END]
    logged = [event["choices"][0]["logprobs"] for event in stream("Yo", played, logprobs=2).events]
    assert logged[0] == {
        "tokens": ["H"],
        "token_logprobs": [-0.25],
        "top_logprobs": [{"H": -0.25, "<|end|>": -2.0}],
        "text_offset": [0],
    }
    assert [each["tokens"] + each["text_offset"] for each in logged] == [["H", 0], ["", 1], ["é", 1], ["<|end|>", 2]]
    assert stream("Yo", logprobs=0).events[0]["choices"][0]["logprobs"]["top_logprobs"] is None


def test_the_headers_tell_what_is_known_before_the_first_token() -> None:
    headers = stream(["é", "ab"]).reply.headers
    assert {name: value for name, value in headers.items() if name not in {"content-type", "vary"}} == {
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-compute-type": "cpu",
        "x-compute-characters": "3",
    }


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (FailEvent("", "out of luck"), "Request failed during generation: Server error: out of luck"),
        (FinishEvent("", "cancelled"), "Incomplete generation stream"),
    ],
)
def test_a_stream_that_breaks_off_ends_with_an_error(ending: FailEvent | FinishEvent, message: str) -> None:
    def end(request_id: str) -> Event:
        if isinstance(ending, FailEvent):
            return FailEvent(request_id, ending.message)
        return FinishEvent(request_id, ending.reason)

    found = play(COMPLETIONS, {"prompt": "a", "stream": True}, [72], ending=end)
    assert [event.get("error") for event in found.events] == [None, error(message)["error"]]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "Input validation error: `inputs` cannot be empty"),
        ("x" * 33, "Input validation error: `inputs` must have less than 32 tokens. Given: 33"),
        ([5, 300], "Input validation error: `prompt` token ids must be >= 0 and < 259. Given: 300"),
    ],
)
def test_a_prompt_that_is_refused_is_an_error_event(prompt: Any, message: str) -> None:
    body = {"prompt": prompt, "stream": True, "stream_options": {"include_usage": True}}
    assert play(COMPLETIONS, body, limits=LIMITS).events == [error(message)]


def test_when_one_prompt_fails_the_others_go_on() -> None:
    found = stream(["a", "", "b"], HI, stream_options={"include_usage": True})
    events = found.events
    assert [event for event in events if "error" in event] == [
        error("Input validation error: `inputs` cannot be empty")
    ]
    answered = {event["choices"][0]["index"] for event in events if event.get("choices")}
    assert answered == {0, 2}
    assert events[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    assert found.counts == {"requests": 4, "success": 2, "validation": 1}


def test_prompts_without_a_permit_are_error_events_and_the_others_go_on() -> None:
    body = {"prompt": ["a", "b", "c"], "stream": True}
    found = play(COMPLETIONS, body, service_limits=ServiceLimits(max_concurrent_requests=2))
    assert [event for event in found.events if "error" in event] == [error("Model is overloaded")]
    assert {event["choices"][0]["index"] for event in found.events if "error" not in event} == {0, 1}


@pytest.mark.parametrize("num_frames", [0, 2])
def test_a_client_that_leaves_frees_every_slot_and_permit(num_frames: int) -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "stream": True})
        await call.start()
        await until(lambda: len(engine.requests) == 4, "all are with the engine")
        for index in range(4):
            engine.say(index, "abc")
        for _ in range(num_frames):
            await call.frame()
        call.leave()
        await call.done()
        await until(lambda: engine.num_open == 0, "all are cancelled")
        assert (len(engine.cancelled), service.num_in_flight) == (4, 0)
        assert service.metrics.request_failure.value(err="dropped") == 4

    asyncio.run(main())
