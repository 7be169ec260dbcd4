"""Bodies of `/v1/chat/completions`: which shapes are taken, what messages become, and what no body can bring down."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai_requests import CHAT, Played, chat, play, said

SHOW_ALL = "{% for message in messages %}[{{ message.role }}|{{ message.content }}]{% endfor %}"
CALL = {"id": "3", "type": "function", "function": {"name": "f", "arguments": {"a": "é", "b": [1, 2.5]}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def templated(*messages: dict[str, Any]) -> str:
    """The text that messages become, by `/chat_tokenize`."""
    text: str = play("/chat_tokenize", chat(*messages), template=SHOW_ALL).json["templated_text"]
    return text


# Shapes

U32 = [-1, 2**32, 1.5, "1", True]
NUMBER = ["1", True, [], {}]
TEXT = [1, True, [], {}]
WRONG: dict[str, list[Any]] = {
    "messages": [None, "a", {}, ["a"], [None]],
    "model": TEXT,
    "max_tokens": U32,
    "max_completion_tokens": U32,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "frequency_penalty": NUMBER,
    "presence_penalty": NUMBER,
    "stop": [1, {}, [1], [None]],
    "seed": [-1, 2**64, 1.5, "1", True],
    "logprobs": [1, "true", []],
    "top_logprobs": U32,
    "stream": [1, "true", []],
    "stream_options": [True, [], {"include_usage": 1}, {"include_usage": None}],
    "tools": [
        {},
        "f",
        [{}],
        [{"type": "function"}],
        [{"type": "function", "function": {}}],
        [{"function": {"name": "f"}}],
    ],
    "tool_choice": [1, True, [], {}, {"type": "function"}, {"type": "function", "function": {"name": 1}}],
    "tool_prompt": TEXT,
    "response_format": [
        *("json", 1, [], {}, {"type": "xml"}, {"type": "json"}, {"type": "regex"}, {"type": "regex", "value": 1}),
        *({"type": "json_schema"}, {"type": "json_schema", "value": {}}, {"type": "json_schema", "value": "a"}),
        *({"type": "json_schema", "json_schema": {}}, {"type": "json_schema", "json_schema": None}),
        {"value": {"properties": {}}},
    ],
    "n": U32,
    "logit_bias": [1, "a", ["a"], {"5": "a"}],
    "top_k": [2**31, 1.5, "1"],
    "typical_p": NUMBER,
    "repetition_penalty": NUMBER,
    "chat_template_kwargs": [1, [], "a"],
}
WRONG_MESSAGES: list[Any] = [
    {},
    {"content": "a"},
    {"role": "user"},
    {"role": "user", "content": None},
    {"role": "user", "content": None, "tool_calls": None},
    {"role": 1, "content": "a"},
    {"role": None, "content": "a"},
    {"role": "user", "content": 1},
    {"role": "user", "content": ["a"]},
    {"role": "user", "content": [{"type": "text"}]},
    {"role": "user", "content": [{"text": "a"}]},
    {"role": "user", "content": [{"type": "audio", "audio": "a"}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": "a"}]},
    {"role": "user", "content": "a", "name": 1},
    {"role": "assistant", "tool_calls": {}},
    {"role": "assistant", "tool_calls": [{}]},
    {"role": "assistant", "tool_calls": [{**CALL, "id": 3}]},
    {"role": "assistant", "tool_calls": [{**CALL, "function": {"arguments": {}}}]},
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_field_of_the_wrong_shape_is_refused_by_its_path(name: str, value: Any) -> None:
    assert play(CHAT, {**chat(), name: value}).shape_error.lstrip("`").startswith(name)


@pytest.mark.parametrize("message", WRONG_MESSAGES)
def test_a_message_of_the_wrong_shape_is_refused(message: Any) -> None:
    assert play(CHAT, chat(said("fine"), message)).shape_error.startswith("messages[1]")


def test_messages_are_required() -> None:
    assert play(CHAT, {}).shape_error == "Object missing required field `messages`"


def test_both_names_of_max_tokens_are_a_duplicate() -> None:
    assert "duplicate field `max_tokens`" in play(CHAT, chat(max_tokens=5, max_completion_tokens=5)).shape_error


NULLABLE = sorted(WRONG.keys() - {"messages"})


def test_every_field_but_the_messages_may_be_null() -> None:
    reply = play(CHAT, chat(**dict.fromkeys(NULLABLE))).json
    assert reply["choices"][0]["message"]["content"] == "Hi"


def test_unknown_fields_are_ignored() -> None:
    extra = {"user": "me", "parallel_tool_calls": True, "store": {}, "best_of": "x", "truncate": -1, "watermark": 1}
    assert play(CHAT, chat(**extra)).json["choices"][0]["message"]["content"] == "Hi"


@pytest.mark.parametrize("format_", [{"type": "text"}, None])
def test_a_format_of_text_is_none(format_: Any) -> None:
    assert play(CHAT, chat(response_format=format_), has_grammars=False).engine.requests[0].grammar is None


# Messages


def test_pieces_of_text_and_images_are_joined_with_nothing_between() -> None:
    content = [
        {"type": "text", "text": "see "},
        {"type": "image_url", "image_url": {"url": "http://a/b.png", "detail": "low"}},
        {"type": "text", "text": "?"},
    ]
    assert templated({"role": "user", "content": content}) == "[user|see ![](http://a/b.png)?]"
    assert templated({"role": "user", "content": []}) == "[user|]"


def test_any_role_is_taken_and_names_and_call_ids_are_dropped() -> None:
    messages = [said("a", "critic"), {"role": "tool", "content": "b", "tool_call_id": "0", "name": "f"}]
    assert templated(*messages) == "[critic|a][tool|b]"


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_calls_become_their_json_with_the_arguments_as_text(content: dict[str, Any]) -> None:
    message = {"role": "assistant", **content, "tool_calls": [CALL]}
    function = {"description": None, "name": "f", "arguments": '{"a":"é","b":[1,2.5]}'}
    listed = json.dumps(
        [{"id": "3", "type": "function", "function": function}], ensure_ascii=False, separators=(",", ":")
    )
    assert templated(message, said("b")) == f"[assistant|{listed}][user|b]"


@pytest.mark.parametrize(
    ("function", "written"),
    [
        ({"name": "f", "arguments": '{"a": 1}'}, '{"a": 1}'),
        ({"name": "f", "parameters": {"a": 1}}, '{"a":1}'),
        ({"name": "f"}, "{}"),
    ],
)
def test_arguments_of_calls_may_be_text_already(function: dict[str, Any], written: str) -> None:
    message = {"role": "assistant", "tool_calls": [{**CALL, "function": function}]}
    (call,) = json.loads(templated(message, said("")).removeprefix("[assistant|").removesuffix("][user|]"))
    assert call["function"]["arguments"] == written


def test_content_wins_over_calls() -> None:
    assert templated({"role": "assistant", "content": "c", "tool_calls": [CALL]}, said("b")) == "[assistant|c][user|b]"


def test_variables_for_the_template_are_passed_on_and_do_not_replace_its_own() -> None:
    kwargs = {"loud": True, "messages": [], "add_generation_prompt": False}
    template = "{{ messages[0].content }}{{ '!' if loud }}{{ '>' if add_generation_prompt }}"
    found = play("/chat_tokenize", chat(said("a"), chat_template_kwargs=kwargs), template=template)
    assert found.json["templated_text"] == "a!>"


# What no body can bring down


def is_told(found: Played) -> bool:
    """Whether the client was told what is wrong, in one of the ways there are."""
    return 400 <= found.reply.status_code < 500 and bool(found.reply.text)


@pytest.mark.parametrize(
    "place",
    [
        '{"messages":[{"role":"user","content":"HERE"}]}',
        '{"messages":[{"role":"HERE","content":"a"}]}',
        '{"messages":[{"role":"user","content":"a","name":"HERE"}]}',
        '{"messages":[{"role":"user","content":[{"type":"text","text":"HERE"}]}]}',
        '{"messages":[{"role":"user","content":[{"type":"HERE"}]}]}',
        '{"messages":[{"role":"user","content":"a"}],"model":"HERE"}',
        '{"messages":[{"role":"user","content":"a"}],"stop":["HERE"]}',
        '{"messages":[{"role":"user","content":"a"}],"HERE":1}',
        '{"messages":[{"role":"user","content":"a"}],"tools":[],"tool_choice":"HERE"}',
        '{"messages":[{"role":"user","content":"a"}],"tools":[],"tool_prompt":"HERE"}',
        '{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"f","function":{"name":"HERE"}}]}',
        '{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"regex","value":"HERE"}}',
        '{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json","value":{"HERE":1}}}',
        '{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"a":"HERE"}}',
    ],
)
@pytest.mark.parametrize("half", ["\\ud800", "\\udfff", "a\\ud83dz", "\\ud800\\ud800"])
def test_half_of_a_surrogate_pair_is_told_as_a_mistake_wherever_it_is(place: str, half: str) -> None:
    for path in (CHAT, "/chat_tokenize"):
        assert is_told(play(path, place.replace("HERE", half).encode()))


@pytest.mark.parametrize("half", ["\\ud800", "\\udfffz"])
@pytest.mark.parametrize(
    "schema", ['{"properties":{"HERE":{}}}', '{"properties":{"a":{"const":"HERE"}}}', '{"type":"HERE"}', '"HERE"']
)
def test_half_of_a_surrogate_pair_in_a_schema_given_as_text_is_told_too(schema: str, half: str) -> None:
    found = play(CHAT, chat(response_format={"type": "json", "value": schema.replace("HERE", half)}))
    assert found.refusal[:2] == (422, "validation")


def test_nul_is_a_character_like_others() -> None:
    assert play(CHAT, chat(said("a\0b"), stop="\0", model="\0")).json["model"] == "\0"
    assert play(CHAT, chat(said("a\0b"))).engine.requests[0].prompt_ids == (97, 0, 98)


NESTED = {
    "messages": '[{"role":"assistant","tool_calls":[{"id":"0","type":"f","function":{"name":"f","arguments":DEEP}}]}]',
    "tools": '[{"type":"f","function":{"name":"f","parameters":{"properties":{"a":DEEP}}}}]',
    "response_format": '{"type":"json","value":{"properties":{"a":DEEP}}}',
    "chat_template_kwargs": '{"a":DEEP}',
    "unknown": "DEEP",
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("depth", [100, 850, 875, 900, 910, 920, 930, 940, 950, 960, 970, 980, 1000, 5000, 300_000])
def test_values_nested_deeply_are_served_or_refused(name: str, depth: int) -> None:
    fields = {"messages": '[{"role":"user","content":"a"}]', name: NESTED[name]}
    body = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
    deep = '{"a":' * depth + "{}" + "}" * depth
    found = play(CHAT, body.replace("DEEP", deep).encode(), template="{{ a }}{{ messages[0].content }}")
    assert found.reply.status_code == 200 or is_told(found)


@pytest.mark.parametrize("name", ["system", "user", "assistant"])
def test_a_huge_message_is_a_mistake_of_length(name: str) -> None:
    found = play(CHAT, chat(said("x" * 1_900_000, name)))
    assert found.refusal[:2] == (422, "validation")


def test_many_messages_and_many_tools_are_served_or_refused() -> None:
    assert play(CHAT, chat(*[said("a")] * 1000), template="{{ messages|length }}").reply.status_code == 200
    tools = [{"type": "function", "function": {**TOOL["function"], "name": f"f{index}"}} for index in range(2000)]  # type: ignore[dict-item]  # a mapping
    assert play(CHAT, chat(tools=tools)).refusal[:2] == (422, "validation")
