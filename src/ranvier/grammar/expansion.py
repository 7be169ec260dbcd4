"""How large a schema becomes when the schemas that look at one value are merged.

llguidance multiplies out what stands side by side: the properties beside an `anyOf` of three schemas are compiled three
times, the schema under `additionalProperties` once more for each name that a sibling in `allOf` gives. Nested, this
grows exponentially, and with llguidance 1.9.1 a kilobyte of schema takes minutes. So the size is worked out first.

A *group* is what looks at one value: a schema with the schemas in its combiners, and those that its references lead to.
Example: `{"properties": {"a": A}, "anyOf": [B, C]}` is a group with two alternatives, hence two copies of A.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from ranvier.grammar.refusals import cannot_compile, not_valid

MAX_SIZE = 20_000
"""Schemas after merging. Compiling that many takes about a second."""

_LISTS = ("allOf", "anyOf", "oneOf")
_MERGED = frozenset(
    {
        *_LISTS,
        "$ref",
        "properties",
        "patternProperties",
        "additionalProperties",
        "required",
        "items",
        "prefixItems",
    }
)
_UNBOUNDED = re.compile(r"[*+]|,\}")
_MAX_ALTERNATIVES = 1_000_000

_Schema = Mapping[str, Any]


def check_expansion(root: _Schema) -> None:
    """Raises ValidationError if the schema becomes larger than `MAX_SIZE`, or if a reference leads out of it.

    Takes time in proportion to the size. Recursion error if it is nested too deeply.
    """
    sizes = _Sizes(root)
    total = sizes.of(root)
    while sizes.unvisited:
        total += sizes.of(sizes.unvisited.pop())
        sizes.check(total)


def target(root: _Schema, reference: str) -> Any:
    """What a JSON pointer such as `#/$defs/name` leads to in `root`; None if there is nothing."""
    start, *steps = unquote(reference).split("/")
    found: Any = root if start == "#" else None
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found


class _Sizes:
    """Sizes of groups. A schema that is met again counts once more, but is worked out once."""

    def __init__(self, root: _Schema) -> None:
        self.unvisited: list[Any] = []
        self._root = root
        self._references: set[str] = set()
        self._sizes: dict[int, int] = {}
        self._alternatives: dict[int, int] = {}
        self._num_visited = 0

    @staticmethod
    def check(size: int) -> None:
        if size > MAX_SIZE:
            raise cannot_compile(
                f"merging `allOf`, `anyOf`, `oneOf` and `$ref` with what stands beside them gives more than {MAX_SIZE} "
                "schemas; move what is common into the alternatives or nest them less"
            )

    def of(self, schema: Any) -> int:
        """Schemas that one becomes. What a mere reference leads to is compiled once, and left in `unvisited`."""
        if not isinstance(schema, Mapping):
            return 1
        if id(schema) not in self._sizes:
            # A schema within itself is refused, or is behind a mere reference.
            self._sizes[id(schema)] = 1
            self._sizes[id(schema)] = self._group_size(schema)
            self.check(self._sizes[id(schema)])
        return self._sizes[id(schema)]

    def _group_size(self, schema: _Schema) -> int:
        merged = _MERGED.intersection(schema)
        if merged == {"$ref"}:
            self._postpone(schema["$ref"])
            return 1
        if merged in ({"anyOf"}, {"oneOf"}):
            return 1 + sum(self.of(branch) for branch in _branches(schema, *merged))
        members = list(self._members(schema, set()))
        self._num_visited += len(members)
        self.check(self._num_visited)
        _check_patterns(members)
        copies = self._alternatives_of(schema)
        rest = copies * (1 + _num_names(members))
        size = len(members)
        for member in members:
            size += copies * sum(self.of(each) for each in _named(member))
            size += rest * sum(self.of(each) for each in _remaining(member))
            self.check(size)
        return size

    def _postpone(self, reference: Any) -> None:
        if reference not in self._references:
            self._references.add(reference)
            self.unvisited.append(self._target(reference))

    def _members(self, schema: Any, seen: set[int]) -> Iterator[_Schema]:
        if not isinstance(schema, Mapping) or id(schema) in seen:
            return
        seen.add(id(schema))
        yield schema
        for branch in self._combined(schema):
            yield from self._members(branch, seen)

    def _combined(self, schema: _Schema) -> Iterator[Any]:
        for key in _LISTS:
            yield from _branches(schema, key)
        if "$ref" in schema:
            yield self._target(schema["$ref"])

    def _alternatives_of(self, schema: Any) -> int:
        if not isinstance(schema, Mapping):
            return 1
        if id(schema) not in self._alternatives:
            self._alternatives[id(schema)] = 1
            self._alternatives[id(schema)] = min(self._product(schema), _MAX_ALTERNATIVES)
        return self._alternatives[id(schema)]

    def _product(self, schema: _Schema) -> int:
        product = self._alternatives_of(self._target(schema["$ref"])) if "$ref" in schema else 1
        for branch in _branches(schema, "allOf"):
            product = min(product * self._alternatives_of(branch), _MAX_ALTERNATIVES)
        for key in ("anyOf", "oneOf"):
            product *= max(1, sum(self._alternatives_of(branch) for branch in _branches(schema, key)))
        return product

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str):
            raise not_valid(f"`$ref` must be a string. Given: {reference}")
        if reference.partition("/")[0] != "#":
            raise cannot_compile(
                f"`$ref` must lead to a place in the schema, as `#/$defs/name` does. Given: {reference}"
            )
        return target(self._root, reference)


def _branches(schema: _Schema, key: str) -> list[Any]:
    branches = schema.get(key)
    return branches if isinstance(branches, list) else []


def _num_names(members: list[_Schema]) -> int:
    """Names, or places in an array, for which the schema of the others is compiled anew."""
    if len(members) == 1 and "patternProperties" not in members[0]:
        return len(_names(members[0], "required") - _names(members[0], "properties"))
    names: set[str] = set()
    for member in members:
        names |= _names(member, "required") | _names(member, "properties")
    return max(len(names), *(len(_branches(member, "prefixItems")) for member in members))


def _check_patterns(members: list[_Schema]) -> None:
    """If all the names of a pattern are named otherwise too, llguidance goes into a dead end after a comma."""
    patterns = [pattern for member in members for pattern in _names(member, "patternProperties")]
    finite = [each for each in patterns if each[:1] == "^" and each[-1:] == "$" and not _UNBOUNDED.search(each)]
    if finite and any(_names(member, "properties") or _names(member, "required") for member in members):
        raise cannot_compile(
            f"`patternProperties` beside named properties must match names without end. Given: {finite[0]}; "
            "name the properties it stands for"
        )


def _names(schema: _Schema, key: str) -> set[str]:
    value = schema.get(key)
    return {name for name in value if isinstance(name, str)} if isinstance(value, (Mapping, list)) else set()


def _named(schema: _Schema) -> list[Any]:
    properties = schema.get("properties")
    return [*(properties.values() if isinstance(properties, Mapping) else ()), *_branches(schema, "prefixItems")]


def _remaining(schema: _Schema) -> list[Any]:
    """The schemas for what has no name or place of its own."""
    patterns = schema.get("patternProperties")
    others = [schema[key] for key in ("additionalProperties", "items") if isinstance(schema.get(key), Mapping)]
    return [*(patterns.values() if isinstance(patterns, Mapping) else ()), *others, *_branches(schema, "items")]
