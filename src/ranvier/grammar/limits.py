"""What a schema may ask for, so that compiling it stays under a second and cannot end the process.

llguidance has limits of its own, but some of its work is outside them. Each limit here is for one such case, measured
with llguidance 1.9.1 on one core:

* It follows references by recursion, about 5 kB of stack for each level; a chain of 1,000 references to nested objects
  overflows 8 MB, which ends the process.
* The automaton for multiples of several numbers grows with their product, also where they are alternatives. Multiples
  of 999,983 take 8 s, of any of six primes below 100 minutes.
* Whether the expressions of `patternProperties` are disjoint is tried for each pair, anew wherever schemas are merged:
  300 take 2 s.
* Optional and required properties and lists of objects in `enum` take time with the square of their number.
* A long text that is forced is tokenized in one go.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from ranvier.grammar.refusals import cannot_compile, not_valid

MAX_GRAMMAR_BYTES = 131_072
"""Longest text of a grammar, in UTF-8."""

NAME_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose value maps names, which are no keywords, to schemas."""

DATA = frozenset({"const", "enum"})
"""Keywords whose value is data, not a schema."""

_ROOT = ""
_DEFINITIONS = frozenset({"$defs", "definitions"})
_MAX_LEVELS = 100
_MAX_REFERENCE_LEVELS = 600
_MAX_OPTIONAL_PROPERTIES = 400
_MAX_REQUIRED = 4_000
_MAX_BRANCHES = 500
_MAX_LISTED_OBJECTS = 500
_MAX_TEXT = 10_000
_MAX_MULTIPLE = 10_000
_MAX_PATTERN_PAIRS = 10_000
_MAX_NUM_DIGITS = 20


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises ValidationError if a limit above is exceeded. Takes time in proportion to the schema."""
    survey = _Survey(schema)
    checks = (
        (survey.max_levels, _MAX_LEVELS, "levels of nesting; make it flatter"),
        (survey.num_reference_levels, _MAX_REFERENCE_LEVELS, "levels with those of its references; use fewer `$ref`"),
        (survey.max_optional, _MAX_OPTIONAL_PROPERTIES, "optional properties in one object; make some required"),
        (survey.num_required, _MAX_REQUIRED, "names in `required`; make the objects smaller"),
        (survey.max_branches, _MAX_BRANCHES, "alternatives in one list; join some"),
        (survey.num_listed, _MAX_LISTED_OBJECTS, "objects and arrays in `enum` and `const`; write them as schemas"),
        (survey.max_text, _MAX_TEXT, "characters in one string; shorten it"),
        (survey.least_common_multiple, _MAX_MULTIPLE, "as least common multiple of all `multipleOf`; use rounder ones"),
        (survey.num_pattern_pairs, _MAX_PATTERN_PAIRS, "pairs of `patternProperties` to compare; use fewer of them"),
    )
    for given, limit, what in checks:
        if given > limit:
            raise cannot_compile(f"the schema has {given} and the limit is {limit} {what}")


@dataclass(frozen=True, slots=True)
class _Node:
    """An object or array of a schema. The levels are those above it, in the whole and in its region.

    A region is a definition without those inside it, known by its name; the rest of the schema is one too. `key` is
    the keyword whose value this is, or empty. `is_data`: inside `const` or `enum`.
    """

    value: dict[str, Any] | list[Any]
    level: int = 1
    region: str = _ROOT
    region_level: int = 1
    key: str = ""
    is_data: bool = False

    @property
    def is_names(self) -> bool:
        return self.key in NAME_MAPS

    def inner(self) -> Iterator[_Node]:
        items = self.value.items() if isinstance(self.value, dict) else (("", value) for value in self.value)
        return (self._inside(key, value) for key, value in items if isinstance(value, (dict, list)))

    def _inside(self, key: str, value: dict[str, Any] | list[Any]) -> _Node:
        level = self.level + 1
        if self.key in _DEFINITIONS:
            return _Node(value, level, key, level)
        keyword = "" if self.is_names or self.is_data else key
        is_data = self.is_data or keyword in DATA
        return _Node(value, level, self.region, self.region_level, keyword, is_data)


def _nodes(schema: Mapping[str, Any]) -> Iterator[_Node]:
    stack = [_Node(dict(schema))]
    while stack:
        node = stack.pop()
        yield node
        stack += node.inner()


class _Survey:
    """Counts over a whole schema, found without recursion."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.max_levels = 0
        self.max_optional = 0
        self.max_branches = 0
        self.max_text = 0
        self.num_required = 0
        self.num_listed = 0
        self.least_common_multiple = 1
        self._num_patterns = 0
        self._num_merges = 1
        self._references: set[str] = set()
        self._levels_of: dict[str, int] = {}
        for node in _nodes(schema):
            self._visit(node)

    @property
    def num_reference_levels(self) -> int:
        """Upper bound of the levels on any path through references, each of which is followed once."""
        highest = max(self._levels_of.values())
        regions = (self._levels_of.get(_region(reference), highest) for reference in self._references)
        return self._levels_of[_ROOT] + sum(levels + 1 for levels in regions)

    @property
    def num_pattern_pairs(self) -> int:
        """Pairs of patterns, times the places where schemas may be merged."""
        return self._num_patterns * (self._num_patterns - 1) // 2 * self._num_merges

    def _visit(self, node: _Node) -> None:
        self.max_levels = max(self.max_levels, node.level)
        levels = node.level - node.region_level + 1
        self._levels_of[node.region] = max(self._levels_of.get(node.region, 0), levels)
        values = node.value.values() if isinstance(node.value, dict) else node.value
        self._visit_texts(values)
        if isinstance(node.value, dict):
            self._visit_texts(node.value.keys())
        if node.is_data:
            self.num_listed += node.key != "enum"
            _check_exact(values)
        elif isinstance(node.value, dict) and not node.is_names:
            self._visit_keywords(node.value)

    def _visit_texts(self, values: Iterable[Any]) -> None:
        lengths = (len(value) for value in values if isinstance(value, str))
        self.max_text = max(self.max_text, max(lengths, default=0))

    def _visit_keywords(self, schema: Mapping[str, Any]) -> None:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            self._references.add(reference)
            self._num_merges += 1
        for key in ("anyOf", "oneOf", "allOf"):
            branches = schema.get(key)
            if isinstance(branches, list):
                self.max_branches = max(self.max_branches, len(branches))
                self._num_merges += len(branches)
        if isinstance(schema.get("patternProperties"), dict):
            self._num_patterns += len(schema["patternProperties"])
        self._visit_properties(schema)
        self._visit_numbers(schema)
        _check_exact([schema.get("const")])

    def _visit_properties(self, schema: Mapping[str, Any]) -> None:
        required, properties = schema.get("required"), schema.get("properties")
        names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        self.num_required += len(names)
        if isinstance(properties, dict):
            self.max_optional = max(self.max_optional, len(properties.keys() - names))
        least = schema.get("minProperties")
        if isinstance(least, int) and least > len(names) + 1:
            # Names that are not listed may come twice, and count once when the output is read.
            raise cannot_compile(
                f"`minProperties` may be at most one more than the names in `required`, which are {len(names)}. "
                f"Given: {least}; name more in `required`"
            )

    def _visit_numbers(self, schema: Mapping[str, Any]) -> None:
        for key in ("exclusiveMinimum", "exclusiveMaximum"):
            if isinstance(schema.get(key), bool):
                raise not_valid(f"`{key}` must be a number, not {str(schema[key]).lower()}; put the bound there")
        step = schema.get("multipleOf")
        if isinstance(step, bool) or not isinstance(step, (int, float)) or not math.isfinite(step):
            return
        if step <= 0:
            raise not_valid(f"`multipleOf` must be > 0. Given: {step}")
        self.least_common_multiple = math.lcm(self.least_common_multiple, _digits(step))


def _check_exact(values: Iterable[Any]) -> None:
    """The library holds numbers in double precision."""
    for value in values:
        if isinstance(value, int) and abs(value) > 2**53:
            raise cannot_compile(f"`enum` and `const` may hold integers up to 2**53. Given: {value}; use a string")


def _digits(number: int | float) -> int:
    """The decimal digits without the zeros at the end: 0.25 and 2500 give 25."""
    digits = "".join(map(str, Decimal(repr(number)).as_tuple().digits))
    return int(digits.rstrip("0")[:_MAX_NUM_DIGITS])


def _region(reference: str) -> str:
    """The name of the innermost definition that a reference leads into; empty for the rest of the schema."""
    parts = unquote(reference).replace("~1", "/").replace("~0", "~").split("/")
    names = [name for before, name in itertools.pairwise(parts) if before in _DEFINITIONS]
    return names[-1] if names else _ROOT
