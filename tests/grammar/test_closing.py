from __future__ import annotations

from typing import Any

import pytest

from ranvier.grammar.closing import closed

NAME = {"type": "object", "properties": {"name": {"type": "string"}}}
CLOSED_NAME = {**NAME, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (NAME, CLOSED_NAME),
        ({"type": "array", "items": NAME}, {"type": "array", "items": CLOSED_NAME}),
        ({"prefixItems": [NAME, True]}, {"prefixItems": [CLOSED_NAME, True]}),
        ({"anyOf": [NAME, {"type": "null"}]}, {"anyOf": [CLOSED_NAME, {"type": "null"}]}),
        (
            {"properties": {"a": {"$ref": "#/$defs/N"}}, "$defs": {"N": NAME}},
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/N"}},
                "$defs": {"N": CLOSED_NAME},
                "additionalProperties": False,
            },
        ),
        ({"additionalProperties": NAME}, {"additionalProperties": CLOSED_NAME}),
        (
            {"properties": {"properties": NAME, "allOf": {"type": "string"}}},
            {
                "type": "object",
                "properties": {"properties": CLOSED_NAME, "allOf": {"type": "string"}},
                "additionalProperties": False,
            },
        ),
    ],
)
def test_an_object_with_named_properties_has_no_others(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {**NAME, "additionalProperties": True},
        {**NAME, "additionalProperties": {"type": "integer"}},
        {**NAME, "patternProperties": {"^x": {}}},
        {**NAME, "required": ["age"]},
        {**NAME, "required": 3},
        {**NAME, "required": [["name"]]},
        {"properties": 3},
        {"type": "object"},
        {"const": {"properties": {}}},
        {"enum": [NAME]},
        {"allOf": [NAME, {"properties": {"age": {}}}]},
        {"properties": {"a": {"allOf": [NAME]}}},
        {**NAME, "anyOf": [{"properties": {"age": {}}}]},
        {**NAME, "$ref": "#/$defs/Base"},
        {"items": {"if": NAME, "then": NAME}},
    ],
    ids=str,
)
def test_what_says_so_or_combines_schemas_is_left_alone(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_the_order_of_keys_stays() -> None:
    schema = {"properties": {"z": {}, "a": {}}, "type": "object"}
    assert list(closed(schema)["properties"]) == ["z", "a"]
