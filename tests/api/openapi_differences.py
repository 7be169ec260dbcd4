"""Two OpenAPI documents compared: what a client of the first would not find in the second."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Schema = dict[str, Any]
METHODS = ("get", "post", "put", "delete", "patch")


def differences(theirs: Schema, ours: Schema) -> Iterator[str]:
    """A line for each path, method, status, content type, schema, property, type, `required` and enum that differs.

    Replies of ours may promise more fields; nothing else of theirs may be missing without a line.
    """
    yield from _path_differences(theirs, ours)
    mine, other = _Schemas(ours), _Schemas(theirs)
    requests = other.reached(_bodies(theirs))
    for name in other.names:
        yield from _schema_differences(name, other, mine, is_request=name in requests)


class _Schemas:
    """The named schemas of one document, OpenAPI 3.0 or 3.1."""

    def __init__(self, document: Schema) -> None:
        self._named: Schema = document["components"]["schemas"]
        self.names = sorted(self._named)

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def kind(self, schema: Schema, shared: _Schemas) -> str:
        """What values it has, in words that are the same for both versions; names where both documents know them."""
        return " | ".join(sorted(self._kinds(schema, shared))) or "any"

    def kind_of(self, name: str, shared: _Schemas) -> str:
        return self.kind(self._named[name], shared)

    def _kinds(self, schema: Schema, shared: _Schemas) -> Iterator[str]:
        if schema.get("nullable"):
            yield "null"
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in shared:
                yield name
            else:
                yield from self._kinds(self._named[name], shared)
        for part in (*schema.get("oneOf", ()), *schema.get("anyOf", ())):
            yield from self._kinds(part, shared)
        if "allOf" in schema:
            yield " & ".join(self.kind(part, shared) for part in schema["allOf"])
        types = schema.get("type", [])
        for each in [types] if isinstance(types, str) else types:
            yield self._plain(each, schema, shared)

    def _plain(self, kind: str, schema: Schema, shared: _Schemas) -> str:
        if kind == "array":
            return f"[{self.kind(schema['items'], shared)}]"
        if "enum" in schema:
            return " | ".join(sorted(map(repr, schema["enum"])))
        if kind == "object" and "properties" in schema:
            inside = (f"{name}: {self.kind(value, shared)}" for name, value in sorted(schema["properties"].items()))
            return "{" + ", ".join(inside) + "}"
        return kind

    def properties(self, name: str) -> tuple[Schema, set[str]]:
        """Properties and what is required of them, `allOf` taken together."""
        return self._properties(self._named[name])

    def _properties(self, schema: Schema) -> tuple[Schema, set[str]]:
        found: Schema = {}
        required: set[str] = set()
        for part in schema.get("allOf", ()):
            if "$ref" not in part:
                properties, needed = self._properties(part)
                found, required = found | properties, required | needed
        return found | schema.get("properties", {}), required | set(schema.get("required", ()))

    def reached(self, schemas: Iterable[Schema]) -> set[str]:
        """Names of all schemas that these refer to, directly or not."""
        found: set[str] = set()
        waiting: list[Any] = list(schemas)
        while waiting:
            each = waiting.pop()
            if isinstance(each, list):
                waiting += each
            elif isinstance(each, dict):
                name = str(each.get("$ref", "")).rpartition("/")[2]
                if name and name not in found:
                    found.add(name)
                    waiting.append(self._named[name])
                waiting += each.values()
        return found


def _bodies(document: Schema) -> Iterator[Schema]:
    for operations in document["paths"].values():
        for operation in operations.values():
            if "requestBody" in operation:
                yield operation["requestBody"]


def _path_differences(theirs: Schema, ours: Schema) -> Iterator[str]:
    other, mine = _Schemas(theirs), _Schemas(ours)
    for path, operations in theirs["paths"].items():
        for method, operation in operations.items():
            label = f"{method.upper()} {path}"
            found = ours["paths"].get(path, {}).get(method)
            if found is None:
                yield f"{label}: missing"
                continue
            yield from _content_differences(f"{label} body", operation, found, other, mine, "requestBody")
            for status, reply in operation["responses"].items():
                if status not in found["responses"]:
                    yield f"{label} {status}: missing"
                else:
                    pair = {"reply": reply}, {"reply": found["responses"][status]}
                    yield from _content_differences(f"{label} {status}", *pair, other, mine, "reply")


def _content_differences(
    label: str, theirs: Schema, ours: Schema, other: _Schemas, mine: _Schemas, key: str
) -> Iterator[str]:
    contents = ours.get(key, {}).get("content", {})
    for media, value in theirs.get(key, {}).get("content", {}).items():
        if media not in contents:
            yield f"{label} {media}: missing"
            continue
        before, after = other.kind(value["schema"], other), mine.kind(contents[media]["schema"], other)
        if before != after:
            yield f"{label} {media}: {before} -> {after}"


def _schema_differences(name: str, other: _Schemas, mine: _Schemas, *, is_request: bool) -> Iterator[str]:
    if name not in mine:
        yield f"{name}: missing"
        return
    theirs, needed = other.properties(name)
    ours, promised = mine.properties(name)
    if not theirs:
        before, after = other.kind_of(name, other), mine.kind_of(name, other)
        if before != after:
            yield f"{name}: {before} -> {after}"
    for field, value in theirs.items():
        if field not in ours:
            yield f"{name}.{field}: missing"
            continue
        before, after = other.kind(value, other), mine.kind(ours[field], other)
        if before != after:
            yield f"{name}.{field}: {before} -> {after}"
        if is_request:
            yield from _bound_differences(f"{name}.{field}", value, ours[field])
    for field in sorted(needed ^ promised if is_request else needed - promised):
        yield f"{name}.{field}: {'required -> optional' if field in needed else 'optional -> required'}"


def _bound_differences(label: str, theirs: Schema, ours: Schema) -> Iterator[str]:
    """Bounds and defaults that theirs states. Its defaults are strings, whatever the type."""
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"):
        if keyword in theirs and theirs[keyword] != ours.get(keyword):
            yield f"{label}: {keyword} {theirs[keyword]} -> {ours.get(keyword, 'none')}"
    if "default" in theirs:
        before, after = str(theirs["default"]), json.dumps(ours.get("default"))
        if before != after.strip('"'):
            yield f"{label}: default {before} -> {after}"
