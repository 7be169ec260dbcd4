"""Texts of grammars, and the limits of schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from walks import compiler, matches

from ranvier.errors import ValidationError
from ranvier.grammar import any_json_object, from_json_schema, from_regex

WHITE_SPACE = {"whitespace_pattern": r"\x20|\n\x20{0,24}"}


def inner(text: str) -> dict[str, Any]:
    """The schema in the text of a grammar, without the server's options."""
    (grammar,) = json.loads(text)["grammars"]
    schema: dict[str, Any] = grammar["json_schema"]
    assert schema.pop("x-guidance") == WHITE_SPACE
    return schema


def refusal(schema: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        compiler().compile(from_json_schema(schema))
    return str(caught.value)


def accepts(schema: dict[str, Any], text: str) -> bool:
    return matches(compiler().compile(from_json_schema(schema)), text)


def test_a_schema_becomes_its_own_text_with_the_servers_options() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "null"}, "a": {}}, "required": ["a", "b"]}
    expected = (
        '{"grammars":[{"json_schema":{"type":"object","properties":{"b":{"type":"null"},"a":{}},'
        '"required":["a","b"],"x-guidance":{"whitespace_pattern":"\\\\x20|\\\\n\\\\x20{0,24}"}}}]}'
    )
    assert from_json_schema(schema) == from_json_schema(json.dumps(schema)) == expected


def test_texts_are_the_same_each_time() -> None:
    assert from_regex("a|b") == from_regex("a|b")
    assert any_json_object() == from_json_schema({"type": "object"})


def test_properties_are_written_in_the_order_of_the_schema() -> None:
    schema = {"properties": {"z": {"type": "null"}, "a": {"type": "null"}}, "required": ["a", "z"], "type": "object"}
    assert accepts(schema, '{"z":null,"a":null}')
    assert not accepts(schema, '{"a":null,"z":null}')


@pytest.mark.parametrize(
    ("text", "is_json_here"),
    [
        ('{"a":[1,2]}', True),
        ('{ "a": [1, 2] }', True),
        ('{\n    "a": [\n        1,\n        2\n    ]\n}', True),
        ('{"a" : [ 1 , 2 ]}', True),
        ('{"a":  [1,2]}', False),
        ('{"a":\n\n[1,2]}', False),
        ('{"a":\t[1,2]}', False),
        (' {"a":[1,2]}', False),
        ('{"a":[1,2]}\n', False),
    ],
)
def test_white_space_is_one_space_or_one_indented_line(text: str, is_json_here: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    assert accepts(schema, text) == is_json_here


def test_what_says_nothing_about_the_output_is_left_out() -> None:
    remarks = {"title": "T", "description": "d", "$comment": "c", "default": 1, "examples": [1], "$id": "http://x/y"}
    schema = {**remarks, "type": "object", "properties": {"title": {**remarks, "type": "string"}, "default": {}}}
    assert inner(from_json_schema(schema)) == {
        "type": "object",
        "properties": {"title": {"type": "string"}, "default": {}},
    }


def test_data_stays_as_it_is() -> None:
    schema = {"enum": [{"title": 1, "format": "x"}], "const": {"title": 1, "default": [{"description": 2}]}}
    assert inner(from_json_schema(schema)) == schema


@pytest.mark.parametrize("name", ["int32", "binary", "color", "regex", "uri-reference", "password"])
def test_a_format_that_is_not_enforced_is_a_remark(name: str) -> None:
    assert inner(from_json_schema({"type": "string", "format": name})) == {"type": "string"}


@pytest.mark.parametrize(
    "name", ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
)
def test_known_formats_are_enforced(name: str) -> None:
    assert not accepts({"type": "string", "format": name}, '"no such thing!"')


def test_the_clients_own_options_for_the_library_have_no_effect() -> None:
    schema = {"x-guidance": {"lenient": True, "whitespace_flexible": False}, "type": "object"}
    assert inner(from_json_schema(schema)) == {"type": "object"}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("[1]", "the schema must be a JSON object"),
        ("true", "the schema must be a JSON object"),
        ("{", "the schema cannot be read as JSON: Expecting property name enclosed in double quotes"),
        ("[" * 100_000, "the schema is nested too deeply; make it flatter"),
        ({"const": float("nan")}, "the schema cannot be read as JSON: Out of range float values"),
        ({"const": "\ud800"}, "the schema cannot be read as JSON: 'utf-8' codec can't encode character"),
        ({"const": {1, 2}}, "the schema cannot be read as JSON: Object of type set is not JSON serializable"),
        ({"type": "text"}, "Invalid type: text"),
        ({"required": "a"}, "Expected array for 'required', got \"a\""),
        ({"$ref": "#/$defs/a"}, "Pointer '/$defs/a' does not exist"),
        ({"$ref": 3}, "`$ref` must be a string. Given: 3"),
        ({"type": "string", "pattern": "("}, "regex parse error: ( ^ error: unclosed group"),
        ({"type": "integer", "multipleOf": 0}, "`multipleOf` must be > 0. Given: 0"),
        ({"exclusiveMinimum": True}, "`exclusiveMinimum` must be a number, not true; put the bound there"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable schema: minimum (5) is greater than maximum"),
        ({"$ref": "#"}, "it allows no output; look for schemas that contradict each other or only refer to themselves"),
    ],
)  # fmt: skip
def test_a_wrong_schema_is_not_valid(schema: Any, reason: str) -> None:
    assert refusal(schema).startswith(f"grammar is not valid: {reason}")


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def names(count: int) -> dict[str, Any]:
    return {f"p{n}": {} for n in range(count)}


def merged(levels: int) -> dict[str, Any]:
    """Each level has two alternatives, hence two copies of the next."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    return schema


def chain(length: int) -> dict[str, Any]:
    """1 level for the root, 1 for `properties`, 1 for the reference; 4 for each object before the next reference."""
    definitions = {f"d{n}": {"properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(length)}
    return {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**definitions, f"d{length}": {}}}


LIMITS = [
    (deep(100), 101, 100, "levels of nesting; make it flatter"),
    (chain(150), 605, 600, "levels with those of its references; use fewer `$ref`"),
    ({"properties": names(401)}, 401, 400, "optional properties in one object; make some required"),
    ({"required": list(names(4_001))}, 4_001, 4_000, "names in `required`; make the objects smaller"),
    ({"anyOf": [{"const": n} for n in range(501)]}, 501, 500, "alternatives in one list; join some"),
    ({"enum": [[n] for n in range(501)]}, 501, 500, "objects and arrays in `enum` and `const`; write them as schemas"),
    ({"const": "x" * 10_001}, 10_001, 10_000, "characters in one string; shorten it"),
    (
        {"properties": {"a": {"multipleOf": 0.0101}, "b": {"multipleOf": 1030}}},
        10_403,
        10_000,
        "as least common multiple of all `multipleOf`; use rounder ones",
    ),
    (
        {"patternProperties": names(101), "anyOf": [{}]},
        10_100,
        10_000,
        "pairs of `patternProperties` to compare; use fewer of them",
    ),
]


@pytest.mark.parametrize(("schema", "given", "limit", "what"), LIMITS, ids=[each[3] for each in LIMITS])
def test_a_schema_beyond_a_limit_is_refused_with_it(schema: Any, given: int, limit: int, what: str) -> None:
    expected = f"cannot compile regex from schema: the schema has {given} and the limit is {limit} {what}"
    assert refusal(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        deep(95),
        chain(140),
        {"type": "object", "properties": names(400)},
        {"type": "object", "properties": names(2_000), "required": list(names(2_000))},
        {"anyOf": [{"const": n} for n in range(500)]},
        {"enum": [[n] for n in range(500)]},
        {"const": "x" * 10_000},
        {"type": "integer", "multipleOf": 9_973},
        {"type": "object", "patternProperties": {f"^{n:03}": {} for n in range(100)}},
        merged(10),
        {"type": "object", "description": "d" * 300_000},
    ],
)
def test_a_schema_at_a_limit_compiles(schema: Any) -> None:
    assert any(compiler().compile(from_json_schema(schema)).allowed())


def test_schemas_that_multiply_are_refused() -> None:
    assert refusal(merged(14)) == (
        "cannot compile regex from schema: merging `allOf`, `anyOf`, `oneOf` and `$ref` with what stands beside them "
        "gives more than 20000 schemas; move what is common into the alternatives or nest them less"
    )


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {}}, 'Unimplemented keys: ["not"]; remove them'),
        ({"oneOf": [{}, {}]}, "`oneOf` is supported where its schemas plainly exclude each other; use `anyOf` instead"),
        (
            {"$ref": "http://example.com/a"},
            "`$ref` must lead to a place in the schema, as `#/$defs/name` does. Given: http://example.com/a",
        ),
        (
            {"minProperties": 3, "required": ["a"]},
            "`minProperties` may be at most one more than the names in `required`, which are 1. Given: 3; "
            "name more in `required`",
        ),
        (
            {"properties": {"a": {}}, "patternProperties": {"^(a|b)$": {}}},
            "`patternProperties` beside named properties must match names without end. Given: ^(a|b)$; "
            "name the properties it stands for",
        ),
        (
            {"const": 2**53 + 1},
            "`enum` and `const` may hold integers up to 2**53. Given: 9007199254740993; use a string",
        ),
        (
            {"enum": [{"a": [-(2**60)]}]},
            "`enum` and `const` may hold integers up to 2**53. Given: -1152921504606846976; use a string",
        ),
        ({"const": ["x" * 9_999] * 20}, "the grammar has 200141 bytes and the limit is 131072; make it smaller"),
        ({"title": "d" * 1_100_000}, "the schema has 1100012 characters and the limit is 1048576; make it smaller"),
        ({"type": "string", "pattern": r"\ba"}, "lookarounds not supported yet"),
        ({"patternProperties": {"a": {}, "b": {}}}, "patternProperty regexes /a/ and /b/ are not disjoint"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_not_compiled(schema: Any, reason: str) -> None:
    assert refusal(schema).startswith(f"cannot compile regex from schema: {reason}")


def test_names_of_properties_are_no_keywords() -> None:
    """Each of these would be refused as a keyword."""
    properties: dict[str, Any] = {
        "multipleOf": True,
        "exclusiveMinimum": True,
        "$ref": {},
        "not": {},
        "minProperties": {},
    }
    assert accepts({"type": "object", "properties": properties}, '{"multipleOf":1,"$ref":2}')


def test_details_are_one_short_line() -> None:
    message = refusal({"type": "string", "pattern": "(?=" + "a" * 5_000 + ")"})
    assert "\n" not in message
    assert len(message) < 300
