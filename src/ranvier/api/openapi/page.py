"""`docs/api.md`: each route, and each parameter with what honours it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from ranvier.api.openapi.document import all_operations, default_document
from ranvier.api.openapi.fields import Note, note_of
from ranvier.api.openapi.operations import TAGS, Operation
from ranvier.api.openapi.schemas import REQUESTS, Schema, request_fields
from ranvier.api.wire import GenerateParameters

_HEAD = """\
# The API

Written by `ranvier api-table`; [the differences from TGI](differences.md) and [the operator's options](options.md) have
pages of their own. A running server describes itself, with its own limits, at `/api-doc/openapi.json` (OpenAPI 3.1) and
shows that at `/docs/`.

## Routes

The key is asked for only where `--api-key` is set; without it the reply is a 401. GET routes answer HEAD, too. Any
route may reply 404 or 405 without a body.

| route | what it does | key | replies |
| --- | --- | --- | --- |
"""
_PARAMETERS = """
## Parameters

What a target cannot honour is refused with a 422 that names the parameter; what is accepted and changes nothing is said
below. Fields that are not listed are not read. `null` is the same as leaving a field out where the type allows it. A
limit that the operator sets shows the option.
"""
_PARTS = """
## Parts of bodies

Every target takes these.
"""


def api_markdown(parameters: Mapping[str, frozenset[str]]) -> str:
    """The page. `parameters`: what each target honours, see `ranvier.core.Capabilities`."""
    routes = "\n".join(_route(each) for tag in TAGS for each in all_operations() if each.tag == tag)
    schemas = default_document()["components"]["schemas"]
    fields = request_fields()
    bodies = [*(kind.__name__ for kind in REQUESTS), GenerateParameters.__name__]
    whole = [_table(name, fields[name], schemas, parameters) for name in bodies]
    parts = [_table(name, names, schemas, {}) for name, names in sorted(fields.items()) if name not in bodies]
    return _HEAD + routes + "\n" + _PARAMETERS + "".join(whole) + _PARTS + "".join(parts)


def _route(operation: Operation) -> str:
    text = ". ".join(filter(None, (operation.summary, operation.description.rstrip("."))))
    key = "yes" if operation.is_protected else "no"
    statuses = ", ".join(str(reply.status) for reply in sorted(operation.replies, key=lambda reply: reply.status))
    return _row(f"{operation.method.upper()} `{operation.path}`", text, key, statuses)


def _table(
    name: str, fields: Iterable[str], schemas: Mapping[str, Schema], parameters: Mapping[str, frozenset[str]]
) -> str:
    schema = schemas[name]
    properties = _properties(schema, schemas)
    targets = sorted(parameters)
    head = _row("field", "type", "default", "limits", *targets, "note") + "\n" + _row(*["---"] * (len(targets) + 5))
    rows = [_field(name, each, properties[each], parameters) for each in fields]
    return f"\n### {name}\n\n{schema.get('description') or _described(schema)}\n\n{head}\n" + "\n".join(rows) + "\n"


def _properties(schema: Schema, schemas: Mapping[str, Schema]) -> Schema:
    """The properties of an object, whichever of its variants they belong to."""
    found: dict[str, Schema] = {}
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        for name, value in _properties(_resolved(part, schemas), schemas).items():
            found[name] = _merged(found[name], value) if name in found else value
    for part in schema.get("allOf", ()):
        found |= _properties(_resolved(part, schemas), schemas)
    return found | dict(schema.get("properties", {}))


def _resolved(schema: Schema, schemas: Mapping[str, Schema]) -> Schema:
    return schemas[_name(schema)] if "$ref" in schema else schema


def _merged(one: Schema, other: Schema) -> Schema:
    if "enum" in one and "enum" in other:
        return {"type": "string", "enum": list(dict.fromkeys([*one["enum"], *other["enum"]]))}
    return one if one == other else {"anyOf": [one, other]}


def _described(schema: Schema) -> str:
    return next(str(part["description"]) for part in schema["allOf"] if "description" in part)


def _field(schema: str, name: str, value: Schema, parameters: Mapping[str, frozenset[str]]) -> str:
    note = note_of(schema, name)
    honoured = [_honoured(note, parameters[target]) for target in sorted(parameters)]
    default = f"`{json.dumps(value['default'])}`" if "default" in value else "–"
    text = "" if note is None else note.text
    return _row(f"`{name}`", _type(value), default, _limits(value, note), *honoured, text)


def _honoured(note: Note | None, parameters: frozenset[str]) -> str:
    if note is None:
        return "yes"
    return "refused" if note.is_refused or (note.capability or "") not in parameters | {""} else "yes"


def _type(value: Schema) -> str:
    if "$ref" in value:
        return f"[{_name(value)}](#{_name(value).lower()})" if _name(value) in request_fields() else _name(value)
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(part) for part in value["anyOf"]))
    if "enum" in value:
        return " or ".join(f"`{each}`" for each in value["enum"])
    kinds = value.get("type", "any")
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    items = f" of {_type(value['items'])}" if "items" in value else ""
    return " or ".join(kind + items if kind == "array" else kind for kind in names)


def _limits(value: Schema, note: Note | None) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    counts = {"minItems": "at least", "maxItems": "at most"}
    options = {} if note is None else note.options
    limits = []
    for keyword, word in {**signs, **counts}.items():
        if keyword in options:
            limits.append(f"{word} `--{options[keyword].replace('_', '-')}`")
        elif keyword in value:
            limits.append(f"{word} {_number(value[keyword])}")
    return ", ".join(limits)


def _number(value: int) -> str:
    powers = {2**32 - 1: "2^32 - 1", 2**31 - 1: "2^31 - 1", 2**64 - 1: "2^64 - 1"}
    return powers.get(value, str(value))


def _name(value: Schema) -> str:
    return str(value["$ref"]).rpartition("/")[2]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
