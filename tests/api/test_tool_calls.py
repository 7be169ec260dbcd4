"""Tools in `/v1/chat/completions`: choices, whole calls, the second try without tools.

The engine is played, so that it may also write what the grammar would forbid.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai_requests import CHAT, HI, chat, play, said, script
from openai_tools import DECLINED, PARIS, WEATHER, ask, tool

from ranvier.core import FailEvent
from ranvier.service import ServiceLimits
from serving import call_text

PARIS_CALL = {
    "id": "0",
    "type": "function",
    "function": {"description": None, "name": "weather", "arguments": '{"city":"Paris"}'},
}


# A call as a whole reply


def test_a_call_is_the_message_and_has_no_content() -> None:
    found = ask()
    (choice,) = found.json["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "tool_calls": [PARIS_CALL]},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert list(choice["message"]) == ["role", "tool_calls"]
    assert list(choice["message"]["tool_calls"][0]["function"]) == ["description", "name", "arguments"]
    usage = found.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
        len(found.engine.requests[0].prompt_ids),
        len(PARIS),
    )


def test_a_whole_call_has_the_id_0_whatever_came_before() -> None:
    before = {"role": "assistant", "tool_calls": [{"id": "7", "type": "function", "function": {"name": "time"}}]}
    found = play(CHAT, chat(said("a"), before, said("b"), tools=[WEATHER]), PARIS)
    assert found.json["choices"][0]["message"]["tool_calls"] == [PARIS_CALL]


def test_arguments_are_compact_and_can_always_be_sent() -> None:
    text = '{ "function" : {"_name":"weather", "city" : "\\ud800\\u0000é" , "n": [1 , 2] } }'
    (call,) = ask(script(text)).json["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city":"\\ud800\\u0000é","n":[1,2]}'


def test_a_call_that_is_cut_is_a_tool_error() -> None:
    found = ask(max_tokens=20)
    status, error_type, text = found.refusal
    assert (status, error_type) == (422, "tool_error")
    assert text.startswith("Tool error: Failed to parse generated text: ")
    assert text.endswith(' {"function":{"_name"')
    # What was generated, was: TGI counts no failure for it.
    assert found.counts == {"requests": 2, "success": 1}


def test_several_answers_are_several_calls() -> None:
    found = ask(PARIS, script(call_text("time")), n=2, seed=5)
    names = [choice["message"]["tool_calls"][0]["function"]["name"] for choice in found.json["choices"]]
    assert names == ["weather", "time"]
    assert [choice["index"] for choice in found.json["choices"]] == [0, 1]
    assert [request.sampling.seed for request in found.engine.requests] == [5, 6]
    assert found.json["usage"]["completion_tokens"] == len(PARIS) + len(script(call_text("time")))
    assert found.reply.headers["x-prompt-tokens"] == str(found.json["usage"]["prompt_tokens"])


def test_log_probabilities_of_a_call_are_those_of_its_tokens() -> None:
    (choice,) = ask(logprobs=True).json["choices"]
    assert len(choice["logprobs"]["content"]) == len(PARIS)


def test_a_call_that_fails_is_the_error_of_the_reply() -> None:
    body = chat(tools=[WEATHER], n=2)
    found = play(CHAT, body, list(b'{"fun'), ending=lambda request_id: FailEvent(request_id, "no"))
    assert found.refusal == (424, "generation", "Request failed during generation: Server error: no")
    few = ServiceLimits(max_concurrent_requests=1)
    assert play(CHAT, {**body, "n": 1}, PARIS, service_limits=few).reply.status_code == 200


# Which tools


@pytest.mark.parametrize(
    ("choice", "may_decline"),
    [({}, True), ({"tool_choice": None}, True), ({"tool_choice": "auto"}, True), ({"tool_choice": "required"}, False)],
)
def test_all_tools_are_offered_and_under_auto_none_is_an_answer(choice: dict[str, Any], may_decline: bool) -> None:
    (request,) = ask(**choice).engine.requests
    prompt = bytes(request.prompt_ids).decode()
    assert ('"name":"weather"' in prompt, '"name":"time"' in prompt) == (True, True)
    assert ('"name":"no_tool"' in prompt) is may_decline
    assert request.grammar is not None
    assert ("no_tool" in request.grammar) is may_decline


@pytest.mark.parametrize(
    "choice", ["time", {"type": "function", "function": {"name": "time"}}, {"function": {"name": "time"}}]
)
def test_a_tool_that_is_named_is_the_only_one(choice: Any) -> None:
    (request,) = ask(script(call_text("time")), tool_choice=choice).engine.requests
    prompt = bytes(request.prompt_ids).decode()
    assert ('"name":"time"' in prompt, '"name":"weather"' in prompt, "no_tool" in prompt) == (True, False, False)
    assert request.grammar is not None
    assert "weather" not in request.grammar


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
@pytest.mark.parametrize("choice", ["nothing", "no_tool", {"type": "function", "function": {"name": "nothing"}}])
def test_an_unknown_name_is_a_tool_error_before_anything_is_sent(choice: Any, fields: dict[str, Any]) -> None:
    name = choice if isinstance(choice, str) else "nothing"
    found = ask(tool_choice=choice, **fields)
    assert found.refusal == (422, "tool_error", f"Tool error: Tool with name {name} not found")
    assert found.counts == {"requests": 1}


def test_no_tools_means_text_and_the_template_does_not_see_them() -> None:
    for fields in (
        {"tool_choice": "none"},
        {"tools": [], "tool_choice": "required"},
        {"tools": [], "tool_choice": "none"},
    ):
        (request,) = ask(HI, **fields).engine.requests
        assert (request.prompt_ids, request.grammar) == (tuple(b"Yo"), None)


def test_without_tools_the_choice_means_nothing() -> None:
    for choice in ("auto", "required", "nothing"):
        assert play(CHAT, chat(tool_choice=choice)).engine.requests[0].grammar is None


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
@pytest.mark.parametrize("tools", [[], [WEATHER]])
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_and_a_format_exclude_each_other(fields: dict[str, Any], tools: list[Any], choice: str) -> None:
    """The golden case: an empty list of tools will do."""
    format_ = {"type": "regex", "value": "a"}
    found = ask(tools=tools, response_format=format_, tool_choice=choice, **fields)
    assert found.refusal == (422, "tool_error", "Tool error: Grammar and tools are mutually exclusive")


@pytest.mark.parametrize("format_", [{"type": "text"}, None])
def test_a_format_of_text_goes_with_tools(format_: Any) -> None:
    assert ask(response_format=format_).json["choices"][0]["message"]["tool_calls"] == [PARIS_CALL]


def test_tools_need_grammars() -> None:
    found = play(CHAT, chat(tools=[WEATHER]), PARIS, has_grammars=False)
    assert found.refusal == (422, "validation", "Input validation error: grammar is not supported")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (tool("no_tool"), "Tool error: `no_tool` means that no tool is called; give the tool another name"),
        (
            tool("greet", {"properties": {"_name": {"type": "string"}}}),
            "Tool error: `_name` holds the name of the tool; rename that argument of tool `greet`",
        ),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"tool_choice": "required"}])
def test_names_that_the_forced_output_needs_are_refused(wrong: Any, text: str, fields: dict[str, Any]) -> None:
    assert ask(tools=[WEATHER, wrong], **fields).refusal == (422, "tool_error", text)


def test_two_tools_may_have_the_same_name() -> None:
    twins = [tool("weather", {"properties": {"a": {"type": "integer"}}}), WEATHER]
    assert ask(tools=twins).json["choices"][0]["message"]["tool_calls"] == [PARIS_CALL]


@pytest.mark.parametrize("schema", [5, "{}", [], True])
def test_a_schema_that_is_no_object_is_refused(schema: Any) -> None:
    text = "Input validation error: the schema of tool `f` must be a JSON object"
    assert ask(tools=[tool("f", schema)]).refusal == (422, "validation", text)


@pytest.mark.parametrize("schema", [{"properties": 5}, {"properties": {"a": {"type": "no such"}}}, {"required": 3}])
def test_a_schema_that_cannot_be_compiled_is_refused(schema: Any) -> None:
    assert ask(tools=[tool("f", schema)]).refusal[:2] == (422, "validation")


@pytest.mark.parametrize(
    "function", [{"name": "f"}, {"name": "f", "parameters": None}, {"name": "f", "arguments": {"type": "object"}}]
)
def test_a_tool_without_a_schema_takes_no_arguments(function: dict[str, Any]) -> None:
    found = ask(script(call_text("f")), tools=[{"type": "function", "function": function}])
    assert found.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


# The second try, as text


@pytest.mark.parametrize("tools", [[WEATHER], []])
def test_a_model_that_declines_answers_with_text_and_all_of_the_reply_is_that_texts(tools: list[Any]) -> None:
    found = ask(DECLINED, HI, tools=tools, logprobs=True, max_tokens=40)
    (choice,) = found.json["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hi"}
    assert choice["finish_reason"] == "stop"
    assert [each["token"] for each in choice["logprobs"]["content"]] == ["H", "i", "<|end|>"]
    assert found.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    first, second = found.engine.requests
    assert (second.prompt_ids, second.grammar, second.max_new_tokens) == (tuple(b"Yo"), None, 40)
    headers = found.reply.headers
    assert (headers["x-compute-characters"], headers["x-prompt-tokens"], headers["x-generated-tokens"]) == (
        "2",
        "2",
        "3",
    )
    # Once on entry and once for each generation.
    assert found.counts == {"requests": 3, "success": 2}


def test_the_second_try_has_the_same_seed_as_the_first() -> None:
    found = ask(DECLINED, n=2, seed=5)
    assert sorted(request.sampling.seed for request in found.engine.requests) == [5, 5, 6, 6]
    assert [choice["message"]["content"] for choice in found.json["choices"]] == [call_text("no_tool")] * 2


def test_some_answers_may_be_calls_and_others_text() -> None:
    found = ask(PARIS, DECLINED, HI, n=2)
    call, text = (choice["message"] for choice in found.json["choices"])
    assert (call["tool_calls"], text["content"]) == ([PARIS_CALL], "Hi")


def test_a_stream_of_a_model_that_declines_is_a_stream_of_text() -> None:
    found = ask(DECLINED, HI, stream=True, logprobs=True, stream_options={"include_usage": True})
    *chunks, usage = found.events
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": text} for text in ("H", "i", "")
    ]
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert found.counts == {"requests": 3, "success": 2}


def test_a_permit_is_given_back_between_the_tries() -> None:
    for stream in (False, True):
        one = ServiceLimits(max_concurrent_requests=1)
        found = play(CHAT, chat(tools=[WEATHER], stream=stream), DECLINED, HI, service_limits=one)
        assert found.reply.status_code == 200
        assert "error" not in found.reply.text
