"""The schema that forces a tool call, and the outputs that it lets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from walks import compiler, matches, text_of_bytes, walk

from ranvier.errors import ValidationError
from ranvier.grammar import from_json_schema, tool_schema
from ranvier.grammar.closing import closed

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city"],
}
CLOCK: dict[str, Any] = {"type": "object", "properties": {}}
TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}},
            "required": ["value"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/Node"}},
    "required": ["root"],
}


def accepts(schema: dict[str, Any], call: Any) -> bool:
    """Whether a model may write the call; `call` is text or what stands under `function`."""
    text = call if isinstance(call, str) else json.dumps({"function": call})
    return matches(compiler().compile(from_json_schema(closed(schema))), text)


def test_a_call_names_its_tool_and_then_gives_the_arguments() -> None:
    schema = tool_schema([("weather", WEATHER), ("clock", CLOCK)])
    assert schema == {
        "type": "object",
        "properties": {"function": {"anyOf": [{"$ref": "#/$defs/tool_0"}, {"$ref": "#/$defs/tool_1"}]}},
        "required": ["function"],
        "additionalProperties": False,
        "$defs": {
            "tool_0": {
                "type": "object",
                "properties": {"_name": {"const": "weather"}, **WEATHER["properties"]},
                "required": ["_name", "city"],
                "additionalProperties": False,
            },
            "tool_1": {
                "type": "object",
                "properties": {"_name": {"const": "clock"}},
                "required": ["_name"],
                "additionalProperties": False,
            },
        },
    }
    assert accepts(schema, {"_name": "weather", "city": "Rome", "unit": "celsius"})
    assert accepts(schema, {"_name": "clock"})
    assert not accepts(schema, {"city": "Rome", "_name": "weather"})
    assert not accepts(schema, {"_name": "weather"})
    assert not accepts(schema, {"_name": "clock", "city": "Rome"})
    assert not accepts(schema, {"_name": "thermometer"})
    assert not accepts(schema, "{}")


def test_the_pseudo_tool_has_no_arguments() -> None:
    schema = tool_schema([("weather", WEATHER)], "no_tool")
    assert accepts(schema, {"_name": "no_tool"})
    assert not accepts(schema, {"_name": "no_tool", "content": "x"})
    assert accepts(tool_schema([], "no_tool"), {"_name": "no_tool"})


@pytest.mark.parametrize(
    ("additional", "may_be_text", "may_be_number"),
    [
        (None, False, False),
        (False, False, False),
        ("false", False, False),
        (True, True, True),
        ("true", True, True),
        ({"type": "integer"}, False, True),
    ],
)
def test_other_arguments_are_refused_unless_the_tool_says_otherwise(
    additional: Any, may_be_text: bool, may_be_number: bool
) -> None:
    tool = CLOCK if additional is None else {**CLOCK, "additionalProperties": additional}
    schema = tool_schema([("clock", tool)])
    assert accepts(schema, {"_name": "clock", "zone": "UTC"}) == may_be_text
    assert accepts(schema, {"_name": "clock", "zone": 1}) == may_be_number


def test_references_within_tools_keep_their_meaning() -> None:
    """Both tools have a definition of the same name; one leads to itself."""
    other = {"$defs": {"Node": {"type": "boolean"}}, "properties": {"flag": {"$ref": "#/$defs/Node"}}}
    schema = tool_schema([("walk", TREE), ("switch", other)])
    assert accepts(schema, {"_name": "walk", "root": {"value": 1, "next": {"value": 2}}})
    assert not accepts(schema, {"_name": "walk", "root": True})
    assert accepts(schema, {"_name": "switch", "flag": True})
    assert not accepts(schema, {"_name": "switch", "flag": {"value": 1}})


def test_a_reference_to_the_whole_means_the_arguments_without_the_name() -> None:
    tool = {"type": "object", "properties": {"inner": {"$ref": "#"}, "n": {"type": "integer"}}}
    schema = tool_schema([("nest", tool)])
    assert accepts(schema, {"_name": "nest", "inner": {"inner": {"n": 1}, "n": 2}})
    assert not accepts(schema, {"_name": "nest", "inner": {"_name": "nest"}})


def test_a_schema_that_is_a_reference_is_followed() -> None:
    """Generators of schemas write this for recursive types."""
    tool = {"$ref": "#/$defs/Node", "$defs": TREE["$defs"]}
    schema = tool_schema([("walk", tool)])
    assert accepts(schema, {"_name": "walk", "value": 1, "next": {"value": 2}})
    assert not accepts(schema, {"_name": "walk"})


def test_older_words_for_definitions_work() -> None:
    tool = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "http://example.com/tool",
        "definitions": {"Unit": {"enum": ["m", "km"]}},
        "properties": {"unit": {"$ref": "#/definitions/Unit"}},
        "required": ["unit"],
    }
    schema = tool_schema([("measure", tool)])
    assert accepts(schema, {"_name": "measure", "unit": "km"})
    assert not accepts(schema, {"_name": "measure", "unit": "mile"})


def test_names_and_data_that_look_like_references_stay() -> None:
    tool = {"properties": {"$ref": {"const": {"$ref": "#/x"}}}, "required": ["$ref"]}
    assert accepts(tool_schema([("t", tool)]), {"_name": "t", "$ref": {"$ref": "#/x"}})


def test_what_else_a_tool_says_of_its_arguments_holds_too() -> None:
    tool = {"properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    schema = tool_schema([("t", tool)])
    assert accepts(schema, {"_name": "t", "b": 1})
    assert not accepts(schema, {"_name": "t"})
    few = tool_schema([("t", {"additionalProperties": True, "minProperties": 1, "maxProperties": 2})])
    assert [accepts(few, {"_name": "t", **{f"p{n}": n for n in range(count)}}) for count in range(4)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({"properties": 3}, "properties must be an object"),
        ({"required": "city"}, "Expected array for 'required', got \"city\""),
        ({"properties": {"a": {"type": "text"}}}, "Invalid type: text"),
        (
            {"properties": {"a": {"$ref": "#/$defs/none"}}},
            "Pointer '/$defs/tool_0_arguments/$defs/none' does not exist",
        ),
        ({"$ref": "#/$defs/none"}, "Pointer '/$defs/tool_0_arguments/$defs/none' does not exist"),
    ],
)
def test_a_wrong_tool_is_refused_when_it_is_compiled(tool: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        compiler().compile(from_json_schema(tool_schema([("t", tool)])))
    assert str(caught.value) == f"grammar is not valid: {reason}"


def test_the_tools_given_are_not_changed() -> None:
    before = json.dumps(TREE)
    tool_schema([("walk", TREE)])
    assert json.dumps(TREE) == before


def test_every_whole_output_is_a_call_of_one_of_the_tools() -> None:
    schema = tool_schema([("weather", WEATHER), ("walk", TREE), ("clock", CLOCK)], "no_tool")
    grammar = from_json_schema(closed(schema))
    names = []
    for seed in range(60):
        ids = walk(compiler().compile(grammar), seed)
        if ids is not None:
            function = json.loads(text_of_bytes(ids))["function"]
            assert next(iter(function)) == "_name"
            names.append(function["_name"])
    assert set(names) == {"weather", "walk", "clock", "no_tool"}
    assert len(names) > 48
