"""Objects without surprises: a schema that names properties means these and no others.

JSON Schema allows any further property unless it is told otherwise, and a small model that is allowed to goes on
inventing them until its tokens end. TGI's grammars never did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPENERS = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties"})
# Under these several schemas look at one object, and each would forbid what the others name.
_COMBINERS = frozenset({"allOf", "if", "then", "else", "dependentSchemas", "$dynamicRef", "$recursiveRef"})
_SCHEMA_MAPS = frozenset({"properties", "$defs", "definitions"})
_SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "prefixItems"})
_SCHEMAS = frozenset({"items", "additionalProperties"})


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with `additionalProperties: false` wherever it names properties and does not say what of others.

    There it gets `type: object` too, if it has no type. What it accepts is accepted by the schema given. One that
    combines schemas for a single object is left alone.
    """
    return schema if _combines(schema) else _closed(schema)


def _combines(schema: Any) -> bool:
    """Whether some object is looked at by more than one schema. Names of properties are no keywords."""
    if not isinstance(schema, Mapping):
        return False
    if not _COMBINERS.isdisjoint(schema):
        return True
    if "properties" in schema and not {"anyOf", "oneOf", "$ref"}.isdisjoint(schema):
        return True
    return any(_combines(part) for part in _parts(schema))


def _parts(schema: Mapping[str, Any]) -> list[Any]:
    parts: list[Any] = []
    for key, value in schema.items():
        if key in _SCHEMA_MAPS and isinstance(value, Mapping):
            parts += value.values()
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            parts += value
        elif key in _SCHEMAS:
            parts.append(value)
    return parts


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _closed_value(key, value) for key, value in schema.items()}
    if "properties" in made and _OPENERS.isdisjoint(made) and _names_all_required(made):
        # Who names properties means an object, also without saying so.
        made = {"type": "object", **made, "additionalProperties": False}
    return made


def _names_all_required(schema: Mapping[str, Any]) -> bool:
    required, properties = schema.get("required", ()), schema["properties"]
    if not isinstance(properties, Mapping) or not isinstance(required, (list, tuple)):
        return False
    return all(isinstance(name, str) and name in properties for name in required)


def _closed_value(key: str, value: Any) -> Any:
    if key in _SCHEMA_MAPS and isinstance(value, Mapping):
        return {name: _closed(each) for name, each in value.items()}
    if key in _SCHEMA_LISTS and isinstance(value, list):
        return [_closed(each) for each in value]
    return _closed(value) if key in _SCHEMAS else value
