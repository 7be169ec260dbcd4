"""SageMaker's `/invocations` and Vertex AI's `/vertex`. The engine is played."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from openai_requests import HI, Played, chat, play, said, script
from openai_tools import DECLINED, WEATHER

from http_driver import OPTIONS, AsgiCall, client_of, events_of
from ranvier.core import FailEvent, Limits
from ranvier.service import ServiceLimits
from serving import LIMITS, HandEngine, Script, call_text, make_service, until

INVOKE, VERTEX = "/invocations", "/vertex"
NO_VARIANT = "data did not match any variant of untagged enum SagemakerRequest"
INCOMPLETE = (500, "Incomplete generation", "Incomplete generation")


def invoke(body: object, *scripts: Script) -> Played:
    return play(INVOKE, body, *scripts)


def predict(*instances: Any, scripts: tuple[Script, ...] = (HI,), **options: Any) -> Played:
    return play(VERTEX, {"instances": list(instances)}, *scripts, **options)


# /invocations


def test_inputs_are_a_text_and_its_prompt_comes_back_by_default() -> None:
    assert invoke({"inputs": "Yo "}).json == [{"generated_text": "Yo Hi"}]
    assert invoke({"inputs": "Yo ", "parameters": {"return_full_text": False}}).json == [{"generated_text": "Hi"}]
    assert "x-compute-time" in invoke({"inputs": "Yo"}).reply.headers


def test_messages_are_a_chat() -> None:
    found = invoke(chat())
    assert (found.json["object"], found.counts) == ("chat.completion", {"requests": 2, "success": 1})
    assert found.json["choices"][0]["message"]["content"] == "Hi"


def test_a_prompt_is_a_completion() -> None:
    found = invoke({"prompt": ["a", "b"]})
    assert (found.json["object"], len(found.json["choices"])) == ("text_completion", 2)
    assert invoke({"prompt": [97, 98]}).engine.requests[0].prompt_ids == (97, 98)


def test_streams_end_with_done_only_where_they_are_openais() -> None:
    (*_, last) = events_of(invoke({"inputs": "a", "stream": True}).reply.text)
    assert last["generated_text"] == "aHi"
    assert invoke(chat(stream=True)).events[0]["object"] == "chat.completion.chunk"
    assert invoke({"prompt": "a", "stream": True}).events[0]["object"] == "text_completion"


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ({"inputs": "a", **chat(), "prompt": "b"}, list),
        ({**chat(), "prompt": "b"}, "chat.completion"),
        ({"inputs": 5, **chat()}, "chat.completion"),
        ({"inputs": "a", "parameters": None, "prompt": "b"}, "text_completion"),
        ({"messages": "a", "prompt": "b"}, "text_completion"),
        ({"inputs": "a", "stream": None, **chat()}, "chat.completion"),
    ],
)
def test_the_first_shape_that_fits_is_served(body: dict[str, Any], shape: Any) -> None:
    found = invoke(body).json
    assert type(found) is list if shape is list else found["object"] == shape


@pytest.mark.parametrize(
    "body",
    [{}, [], 5, {"input": "a"}, {"inputs": 5}, {"inputs": "a", "parameters": {"top_k": "x"}}, {"messages": [{}]}]
    + [{"prompt": []}, {"prompt": "a", "n": -1}, chat(max_tokens=1, max_completion_tokens=1)],
)
def test_what_has_no_shape_of_the_three_is_refused(body: Any) -> None:
    assert invoke(body).shape_error == NO_VARIANT


@pytest.mark.parametrize("body", [b"", b"{", b'{"inputs":"\\ud800"}', b'{"prompt":"a\xff"}', b'{"a":' * 100_000])
def test_what_is_no_json_is_refused_as_such(body: bytes) -> None:
    reply = invoke(body).reply
    assert (reply.status_code, reply.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert reply.text.startswith("Failed to parse the request body as JSON: ")


def test_errors_are_those_of_the_route_that_serves_the_shape() -> None:
    assert invoke({"inputs": ""}).refusal[1] == "validation"
    assert invoke({"prompt": "a", "suffix": "b"}).refusal[1] == "suffix not supported"
    assert invoke(chat(tools=[], response_format={"type": "regex", "value": "a"})).refusal[1] == "tool_error"


# /vertex


def test_texts_and_chats_are_predicted_in_their_order() -> None:
    instances = [{"inputs": "a"}, chat(said("b")), {"inputs": "c", "parameters": None}]
    found = predict(*instances, scripts=(script("1"), script("2"), HI))
    assert found.json == {"predictions": ["1", "2", "Hi"]}
    assert [request.prompt_ids for request in found.engine.requests] == [(97,), (98,), (99,)]
    assert not [name for name in found.reply.headers if name.startswith("x-")]
    # Once on entry and once for each instance.
    assert found.counts == {"requests": 4, "success": 3}


def test_of_a_texts_parameters_only_length_and_seed_are_honoured_and_it_is_always_sampled() -> None:
    parameters = {"max_new_tokens": 1, "seed": 5, "do_sample": False, "top_k": 3, "stop": ["x"], "truncate": 1}
    found = predict({"inputs": "ab", "parameters": parameters})
    (request,) = found.engine.requests
    assert found.json == {"predictions": ["H"]}
    assert (request.sampling.do_sample, request.sampling.seed, request.sampling.top_k) == (True, 5, 0)
    assert (request.max_new_tokens, request.prompt_ids) == (1, (97, 98))
    assert predict({"inputs": "ab"}).engine.requests[0].sampling.do_sample


def test_a_chat_has_its_own_parameters_and_no_stream() -> None:
    found = predict(chat(temperature=0, max_tokens=2, stream=True, top_logprobs=1, n=3))
    (request,) = found.engine.requests
    assert (request.sampling.do_sample, request.max_new_tokens) == (False, 2)
    assert found.json == {"predictions": ["Hi"]}


def test_a_chat_with_tools_is_predicted_as_the_model_wrote_it() -> None:
    for text in (call_text("weather", city="Paris"), call_text("no_tool")):
        found = predict(chat(tools=[WEATHER]), scripts=(script(text),))
        assert found.json == {"predictions": [text]}
        assert found.engine.requests[0].grammar is not None
    assert predict(chat(tools=[WEATHER]), scripts=(DECLINED,)).counts == {"requests": 2, "success": 1}


def test_no_instances_are_an_error() -> None:
    found = predict()
    assert found.refusal == (422, "Input validation error", "Input validation error")
    assert found.counts == {"requests": 1}


@pytest.mark.parametrize(
    "body",
    [
        *({}, [], {"instances": None}, {"instances": {}}, {"instances": ["a"]}, {"instances": [{}]}),
        {"instances": [{"inputs": 5}]},
        {"instances": [{"inputs": "a"}, {"prompt": "b"}]},
        {"instances": [{"inputs": "a", "parameters": {"seed": 2**64}}]},
        {"instances": [{"inputs": "a", "parameters": {"stop": None}}]},
        {"instances": [{"messages": [{"role": "user"}]}]},
    ],
)
def test_other_shapes_are_refused(body: Any) -> None:
    assert play(VERTEX, body).shape_error


def test_an_instance_of_both_shapes_is_a_text() -> None:
    assert predict({"inputs": "a", **chat(said("b"))}).engine.requests[0].prompt_ids == (97,)


@pytest.mark.parametrize("instance", [{"inputs": ""}, {"inputs": "x" * 33}, chat(temperature=-1), chat(n=1, top_p=2)])
def test_whatever_goes_wrong_is_an_incomplete_generation(instance: dict[str, Any]) -> None:
    limits: Limits = LIMITS
    assert predict({"inputs": "a"}, instance, limits=limits).refusal == INCOMPLETE


def test_a_failing_engine_and_a_crowded_server_are_incomplete_generations_too() -> None:
    failed = play(VERTEX, {"instances": [{"inputs": "a"}]}, [72], ending=lambda request_id: FailEvent(request_id, "no"))
    assert failed.refusal == INCOMPLETE
    crowded = predict({"inputs": "a"}, {"inputs": "b"}, service_limits=ServiceLimits(max_concurrent_requests=1))
    assert crowded.refusal == INCOMPLETE


def test_template_and_tool_errors_keep_their_status() -> None:
    assert predict(chat(), template=None).refusal == (422, "template_error", "Template error: template not found")
    refused = predict(chat(), template="{{ raise_exception('no') }}")
    assert refused.refusal == (422, "template_error", "Template error: syntax error: no (in <string>:1)")
    assert refused.counts == {"requests": 1, "template": 1}
    both = chat(tools=[], response_format={"type": "regex", "value": "a"})
    assert predict({"inputs": "a"}, both).refusal[:2] == (422, "tool_error")


def test_a_client_that_leaves_frees_every_slot_and_permit() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        call = AsgiCall(service, VERTEX, {"instances": [{"inputs": "a"}, chat()]})
        await until(lambda: len(engine.requests) == 2, "both are with the engine")
        call.leave()
        await call.done()
        await until(lambda: engine.num_open == 0, "both are cancelled")
        assert service.num_in_flight == 0

    asyncio.run(main())


# /chat_tokenize


def test_chat_tokenize_shows_the_prompt_and_its_tokens_without_special_ones() -> None:
    found = play("/chat_tokenize", chat(said("é")))
    assert found.reply.text == (
        '{"tokenize_response":[{"id":195,"text":"é","start":0,"stop":2},{"id":169,"text":"é","start":0,"stop":2}],'
        '"templated_text":"é"}'
    )
    assert found.counts == {"requests": 1}
    assert not [name for name in found.reply.headers if name.startswith("x-")]


def test_chat_tokenize_shows_tools_as_the_model_would_see_them() -> None:
    text = play("/chat_tokenize", chat(tools=[WEATHER], tool_prompt="!")).json["templated_text"]
    assert text.startswith('Yo\n---\n[{"type":"function","function":{"description":null,"name":"weather",')
    assert text.endswith("\n!")


@pytest.mark.parametrize("num_characters", [0, 20_000])
def test_chat_tokenize_keeps_to_no_limit_and_needs_neither_engine_nor_permit(num_characters: int) -> None:
    async def main() -> None:
        engine = HandEngine()
        engine.is_healthy = False
        service = make_service(engine)
        service.drain()
        async with client_of(service, replace(OPTIONS, api_key="secret")) as client:
            reply = await client.post("/chat_tokenize", json=chat(said("x" * num_characters)))
        assert (reply.status_code, len(reply.json()["tokenize_response"])) == (200, num_characters)
        service.close()

    asyncio.run(main())


def test_chat_tokenize_has_the_errors_of_a_chat() -> None:
    assert play("/chat_tokenize", chat(), template=None).refusal[:2] == (422, "template_error")
    refused = play("/chat_tokenize", chat(), template="{{ raise_exception('no') }}")
    assert refused.counts == {"requests": 1, "template": 1}
    assert play("/chat_tokenize", chat(tools=[], tool_choice="f")).refusal[:2] == (422, "tool_error")
    assert play("/chat_tokenize", {}).shape_error == "Object missing required field `messages`"
