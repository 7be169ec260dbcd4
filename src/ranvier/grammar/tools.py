"""The schema that forces a tool call: `{"function": {"_name": "<tool>", …arguments…}}`, as TGI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ranvier.grammar.expansion import target
from ranvier.grammar.limits import DATA, NAME_MAPS

NAME = "_name"
"""Key of the tool's name among its arguments."""

_IDENTITY = frozenset({"$schema", "$id"})
"""Inside a larger schema they would move its references elsewhere."""

_REPLACED = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"})
_COMBINERS = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
_MAX_HOPS = 8


def tool_schema(tools: Sequence[tuple[str, Mapping[str, Any]]], no_tool: str | None = None) -> dict[str, Any]:
    """JSON Schema of a call of one of `tools`, each a name with the JSON Schema of its arguments.

    The name comes first, then the arguments in their order; other arguments are refused unless the tool's schema says
    `additionalProperties`: true, `"true"` or a schema. `no_tool` is the name of a pseudo-tool without arguments.
    References within a tool's schema keep their meaning.
    """
    names = [*(name for name, _ in tools), *([no_tool] if no_tool is not None else [])]
    schemas = [*(schema for _, schema in tools), {}]
    definitions: dict[str, Any] = {}
    for index, (name, schema) in enumerate(zip(names, schemas, strict=False)):
        definitions |= _definitions(f"tool_{index}", name, schema)
    calls = [{"$ref": f"#/$defs/tool_{index}"} for index in range(len(names))]
    return {
        "type": "object",
        "properties": {"function": {"anyOf": calls}},
        "required": ["function"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _definitions(key: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The call of one tool; beside it, if the tool's schema refers to itself, that schema as it was given."""
    own = f"{key}_arguments"
    pointer = f"#/$defs/{own}"
    rebased = _rebased_schema(schema, pointer)
    call = _call(name, _rebased_schema(_followed(schema), pointer))
    return {key: call} if rebased == schema else {key: call, own: rebased}


def _call(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    others = {key: value for key, value in arguments.items() if key not in _REPLACED}
    for key in ("minProperties", "maxProperties"):
        if isinstance(others.get(key), int):
            others[key] += 1  # the name counts
    properties, required = arguments.get("properties", {}), arguments.get("required", [])
    is_open = not _COMBINERS.isdisjoint(others) and "additionalProperties" not in arguments
    return {
        "type": "object",
        # What is no object or no list is left as it is, to be refused when it is compiled.
        "properties": {NAME: {"const": name}, **properties} if isinstance(properties, Mapping) else properties,
        "required": [NAME, *required] if isinstance(required, list) else required,
        **({} if is_open else {"additionalProperties": _additional(arguments)}),
        **others,
    }


def _additional(arguments: Mapping[str, Any]) -> bool | Mapping[str, Any]:
    additional = arguments.get("additionalProperties", False)
    return additional if isinstance(additional, Mapping) else additional in (True, "true")


def _followed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that one is a mere reference to, as generators of schemas write for recursive types."""
    found = schema
    for _ in range(_MAX_HOPS):
        reference = found.get("$ref")
        if "properties" in found or not isinstance(reference, str):
            break
        next_schema = target(schema, reference)
        if not isinstance(next_schema, Mapping):
            break
        found = next_schema
    return found


def _rebased_schema(schema: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    """The schema with its references to itself leading to `pointer`, where it stands now."""
    return {key: _rebased_value(key, value, pointer) for key, value in schema.items() if key not in _IDENTITY}


def _rebased_value(key: str, value: Any, pointer: str) -> Any:
    if key == "$ref" and isinstance(value, str) and value.partition("/")[0] == "#":
        return pointer + value[1:]
    if key in DATA:
        return value
    if key in NAME_MAPS and isinstance(value, Mapping):
        return {name: _rebased(each, pointer) for name, each in value.items()}
    return _rebased(value, pointer)


def _rebased(value: Any, pointer: str) -> Any:
    if isinstance(value, Mapping):
        return _rebased_schema(value, pointer)
    return [_rebased(each, pointer) for each in value] if isinstance(value, list) else value
