"""Tool calls: what the model may pick, what it is shown, and how its output is read whole and piece by piece."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.errors import ToolError, ValidationError
from ranvier.service import Tool, ToolChoice
from ranvier.service.tools import NO_TOOL_ENTRY, ToolCallReader, compact_json, offered, parse_tool_call
from serving import call_text

CITY = Tool(name="weather", description="Looks up", parameters={"properties": {"city": {"type": "string"}}})
BARE = Tool(name="time", parameters={"type": "object"})


def read(*pieces: str) -> tuple[str | None, str, ToolCallReader]:
    """Name and joined arguments. The name comes once, with the first of the arguments."""
    reader = ToolCallReader()
    parts = [reader.push(piece) for piece in pieces]
    names = [part.name for part in parts if part.name is not None]
    before = parts[: next((index for index, part in enumerate(parts) if part.name is not None), len(parts))]
    assert len(names) <= 1
    assert not any(part.arguments for part in before)
    return (names[0] if names else None), "".join(part.arguments for part in parts), reader


# What may be offered


def test_auto_offers_all_tools_and_the_way_out_last() -> None:
    assert offered([CITY, BARE], ToolChoice()) == (CITY, BARE, NO_TOOL_ENTRY)
    assert offered([], ToolChoice()) == (NO_TOOL_ENTRY,)


def test_none_offers_nothing_and_required_only_the_tools() -> None:
    assert offered([CITY, BARE], ToolChoice(kind="none")) == ()
    assert offered([CITY, BARE], ToolChoice(kind="required")) == (CITY, BARE)
    assert offered([], ToolChoice(kind="required")) == ()


def test_a_name_offers_that_tool_alone_and_of_two_the_first() -> None:
    twin = Tool(name="time", parameters={"type": "object", "properties": {}})
    assert offered([CITY, BARE, twin], ToolChoice(kind="named", name="time")) == (BARE,)


@pytest.mark.parametrize("tools", [[], [CITY]])
def test_an_unknown_name_is_an_error(tools: list[Tool]) -> None:
    with pytest.raises(ToolError) as caught:
        offered(tools, ToolChoice(kind="named", name="wether"))
    assert str(caught.value) == "Tool with name wether not found"


@pytest.mark.parametrize("choice", [ToolChoice(), ToolChoice(kind="required"), ToolChoice(kind="named", name="time")])
def test_names_that_the_forced_output_needs_are_refused(choice: ToolChoice) -> None:
    way_out = Tool(name="no_tool", parameters={})
    named = Tool(name="greet", parameters={"properties": {"_name": {"type": "string"}}})
    with pytest.raises(ToolError) as caught:
        offered([BARE, way_out], choice)
    assert str(caught.value) == "`no_tool` means that no tool is called; give the tool another name"
    with pytest.raises(ToolError) as caught:
        offered([BARE, named], choice)
    assert str(caught.value) == "`_name` holds the name of the tool; rename that argument of tool `greet`"
    assert offered([way_out, named], ToolChoice(kind="none")) == ()


def test_properties_that_are_no_object_are_left_to_the_grammar() -> None:
    odd = Tool(name="odd", parameters={"properties": ["_name"]})
    assert offered([odd], ToolChoice(kind="required")) == (odd,)


# What the model is shown


def test_a_tool_is_shown_with_its_schema_as_text() -> None:
    assert CITY.shown() == {
        "type": "function",
        "function": {
            "description": "Looks up",
            "name": "weather",
            "arguments": '{"properties":{"city":{"type":"string"}}}',
        },
    }
    assert list(CITY.shown()["function"]) == ["description", "name", "arguments"]
    assert BARE.shown()["function"]["description"] is None


def test_shown_schemas_keep_their_order_and_their_characters() -> None:
    tool = Tool(name="t", parameters={"z": 1, "a": "é\n😀"})
    assert tool.shown()["function"]["arguments"] == '{"z":1,"a":"é\\n😀"}'


def test_what_is_nested_too_deeply_to_be_written_is_a_validation_error() -> None:
    deep: dict[str, Any] = {}
    for _ in range(sys.getrecursionlimit() * 100):
        deep = {"a": deep}
    with pytest.raises(ValidationError) as caught:
        compact_json(deep, "tools")
    assert str(caught.value) == "`tools` is nested too deeply; make it flatter"
    while deep:
        # Freed level by level: a garbage collector may not like to do it at once.
        deep = deep["a"]


# The whole output


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ({}, "{}"),
        ({"city": "Paris"}, '{"city":"Paris"}'),
        ({"z": [1, {"a": None}], "a": -0.5, "b": True}, '{"z":[1,{"a":null}],"a":-0.5,"b":true}'),
        ({"q": 'a "quoted" \\ {brace} \u0000 é 😀'}, '{"q":"a \\"quoted\\" \\\\ {brace} \\u0000 é 😀"}'),
    ],
)
def test_a_whole_output_is_a_name_and_compact_arguments(arguments: dict[str, Any], written: str) -> None:
    found = parse_tool_call(f" {call_text('weather', **arguments)}\n")
    assert (found.name, found.arguments) == ("weather", written)


def test_white_space_in_the_output_is_not_in_the_arguments() -> None:
    text = '{ "function" : { "_name" : "f" ,\n "a" : [ 1 , 2 ] } }'
    assert parse_tool_call(text).arguments == '{"a":[1,2]}'


def test_half_of_a_surrogate_pair_stays_an_escape() -> None:
    """A regression: as a character it has no UTF-8, so the reply could not be written."""
    found = parse_tool_call('{"function":{"_name":"f","a":"x\\ud800","\\udfff":"\\ud83d\\ude00"}}')
    assert found.arguments == '{"a":"x\\ud800","\\udfff":"😀"}'
    assert json.loads(found.arguments.encode()) == {"a": "x\ud800", "\udfff": "😀"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        '{"function":{"_name":"f","a":"cut',
        '{"function":{"_name":"f"}',
        "[]",
        "3",
        '{"function":[]}',
        '{"function":"f"}',
        '{"function":{}}',
        '{"function":{"a":1}}',
        '{"other":{"_name":"f"}}',
        '{"function":{"_name":"f","a":1e999}}',
        '{"function":{"_name":"f","a":NaN}}',
        '{"function":{"_name":"f","a":' + "[" * 100_000,
        '{"function":{"_name":"f","a":' + "1" * 10_000 + "}}",
    ],
)
def test_an_output_that_is_no_call_is_a_tool_error_with_the_text(text: str) -> None:
    with pytest.raises(ToolError) as caught:
        parse_tool_call(text)
    assert str(caught.value).startswith("Failed to parse generated text: ")
    assert str(caught.value).endswith(f" {text}")


# The output as it comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
json_arguments = st.dictionaries(st.text().filter(lambda key: key != "_name"), json_values, max_size=4)
layouts = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " :\r\n ")])


@given(st.text(), json_arguments, layouts, st.booleans(), st.data())
def test_however_the_output_is_cut_the_parts_give_the_same_call(
    name: str, arguments: dict[str, Any], layout: tuple[str, str], is_ascii: bool, data: st.DataObject
) -> None:
    value = {"function": {"_name": name, **arguments}}
    text = json.dumps(value, separators=layout, ensure_ascii=is_ascii)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found_name, joined, reader = read(*pieces)
    assert (found_name, json.loads(joined)) == (name, arguments)
    assert reader.is_done
    assert (found_name, joined) == read(*text)[:2] == read(text)[:2]


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ('{"function":{"_name":"f"}}', "{}"),
        ('{"function":{"_name":"f","a":"}}"}}', '{"a":"}}"}'),
        ('{"function":{"_name":"f","a":"\\"}{"}}', '{"a":"\\"}{"}'),
        ('{"function":{"_name":"f","a":"\\\\"}}', '{"a":"\\\\"}'),
        ('{"function":{"_name":"f","a":[{"b":[]}]}}  \n', '{"a":[{"b":[]}]}'),
        ('{"function":{"_name":"f","a":1}}{"function":{"_name":"g"}}', '{"a":1}'),
    ],
)
def test_the_brace_that_closes_the_arguments_is_their_end(text: str, joined: str) -> None:
    for pieces in ([text], list(text)):
        name, found, reader = read(*pieces)
        assert (name, found, reader.is_done) == ("f", joined, True)


def test_until_the_name_is_whole_nothing_is_known() -> None:
    reader = ToolCallReader()
    for piece in ('{"func', 'tion":{', '"_name":"we', 'ather"'):
        assert (reader.push(piece), reader.name) == (reader.push(""), None)
    part = reader.push(',"city"')
    assert (part.name, part.arguments, reader.name, reader.is_done) == ("weather", '{"city"', "weather", False)


def test_a_cut_output_is_not_done() -> None:
    name, joined, reader = read('{"function":{"_name":"f","a":', '"x')
    assert (name, joined, reader.is_done) == ("f", '{"a":"x', False)


def test_a_name_may_be_written_with_escapes() -> None:
    assert read('{"function":{"_name":"\\u0066\\n\\"é","a":1}}')[:2] == ('f\n"é', '{"a":1}')


@pytest.mark.parametrize("name", ['"\\x"', '"\n"', '"\\u00"', "5", "null"])
def test_what_is_no_name_in_json_is_never_taken_for_one(name: str) -> None:
    found, joined, reader = read('{"function":{"_name":' + name + ',"a":1}}')
    assert (found, joined, reader.is_done) == (None, "", False)
