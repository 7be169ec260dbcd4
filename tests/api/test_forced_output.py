"""Chats whose output a grammar forces, over the scripted target: tools and formats.

Where the grammar forbids the token that the target's arithmetic gives, the smallest byte allowed is taken. That is
white space wherever the grammar allows some.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai_requests import CHAT, chat, said, texts_by_index
from openai_tools import tool

from http_driver import client_of, openai_events_of
from serving import LONG, scripted_service


def scripted(**fields: Any) -> Any:
    async def main() -> Any:
        async with scripted_service(limits=LONG) as service, client_of(service) as client:
            reply = await client.post(CHAT, json={"temperature": 0, **fields})
            assert reply.status_code == 200, reply.text
            return openai_events_of(reply.text) if fields.get("stream") else reply.json()

    return asyncio.run(main())


SIDES = {"properties": {"side": {"enum": ["right", "left"]}, "far": {"const": True}}, "required": ["side", "far"]}
LEFT = {"side": "left", "far": True}


def test_the_grammar_forces_a_call() -> None:
    (choice,) = scripted(**chat(said("nerve"), tools=[tool("turn", SIDES)], tool_choice="required"))["choices"]
    function = choice["message"]["tool_calls"][0]["function"]
    assert (function["name"], function["arguments"]) == ("turn", '{"side":"left","far":true}')


def test_the_grammar_lets_a_model_decline() -> None:
    """Of `no_tool` and `turn` the smaller byte is taken; and `signal` alone gives `C`."""
    (choice,) = scripted(**chat(said("signal"), tools=[tool("turn", SIDES)]))["choices"]
    assert choice["message"] == {"role": "assistant", "content": "C"}
    events = scripted(**chat(said("signal"), tools=[tool("turn", SIDES)], stream=True))
    assert texts_by_index(events) == {0: "C"}


def test_under_required_a_model_cannot_decline() -> None:
    """A regression: the grammar let it, and then there was no reply."""
    (choice,) = scripted(**chat(said("nerve"), tools=[tool("zoom", SIDES)], tool_choice="required"))["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "zoom"


@pytest.mark.parametrize(
    ("format_", "content"),
    [
        ({"type": "json", "value": SIDES}, LEFT),
        ({"type": "json_object", "value": SIDES}, LEFT),
        ({"type": "json", "value": json.dumps(SIDES)}, LEFT),
        ({"type": "json_schema", "value": {"schema": SIDES, "strict": True}}, LEFT),
        ({"type": "json_schema", "json_schema": {"name": "s", "schema": SIDES}}, LEFT),
        ({"type": "json_schema", "json_schema": {"schema": {"enum": ["b", "a"]}, "strict": None}}, "a"),
    ],
)
def test_formats_in_tgis_and_in_openais_shapes_hold(format_: Any, content: Any) -> None:
    (choice,) = scripted(**chat(said("nerve"), response_format=format_))["choices"]
    assert (json.loads(choice["message"]["content"]), choice["finish_reason"]) == (content, "stop")


def test_a_format_that_is_a_regex_holds_for_the_whole_text() -> None:
    format_ = {"type": "regex", "value": "(yes|no)!"}
    (choice,) = scripted(**chat(said("nerve"), response_format=format_))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("no!", "stop")


def test_a_format_of_any_object_starts_with_one() -> None:
    (choice,) = scripted(**chat(said("nerve"), response_format={"type": "json_object"}, max_tokens=1))["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("{", "length")


def test_of_the_top_tokens_only_those_the_grammar_allows_are_told() -> None:
    format_ = {"type": "regex", "value": "no|yes"}
    (choice,) = scripted(**chat(said("nerve"), response_format=format_, logprobs=True, top_logprobs=5))["choices"]
    tops = [[top["token"] for top in each["top_logprobs"]] for each in choice["logprobs"]["content"]]
    assert tops == [["n", "y"], ["o"], ["<|end|>"]]
