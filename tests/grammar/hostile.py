"""Grammars made to cost much: most are a few hundred bytes. Where llguidance alone would hang or crash, it says so."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

_RNG = random.Random(0)


def _word(length: int) -> str:
    return "".join(_RNG.choices(string.ascii_lowercase, k=length))


def _of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _nested(depth: int, wrap: Callable[[Any], Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = wrap(schema)
    return _of(a=schema)


def _chain(length: int, wrap: Callable[[Any], Any]) -> dict[str, Any]:
    """Definitions that lead from one to the next."""
    definitions = {f"d{n}": wrap({"$ref": f"#/$defs/d{n + 1}"}) for n in range(length)}
    return {**_of(a={"$ref": "#/$defs/d0"}), "$defs": {**definitions, f"d{length}": {"type": "null"}}}


def _strings(count: int, keyword: str, make: Callable[[int], Any]) -> dict[str, Any]:
    return _of(a={keyword: [make(n) for n in range(count)]})


def _either(inner: Any) -> dict[str, Any]:
    return {"properties": {"a": inner}, "anyOf": [{"required": ["a"]}, {"properties": {"b": {}}}]}


REGEXES = {
    "quantifiers within quantifiers": "(((a{1,100}){1,100}){1,100}){1,100}",
    "stars within stars": "(((a*)*)*)*b",
    "an automaton of 2**100 states": "(a|b)*a(a|b){100}",
    "several of these at once": ".*a.{40}|.*b.{40}|.*c.{40}",
    "periods without a common multiple": f"({'|'.join(f'(a{{{n}}})*' for n in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29))})b",
    "overlapping alternatives": f"({'|'.join(f'a{{{n}}}' for n in range(1, 300))})*b",
    "3,000 words in any order": f"({'|'.join(_word(8) for _ in range(3_000))})*",
    "words at any place": ".*".join(_word(5) for _ in range(50)),
    "a text of 20,000 letters": _word(20_000),
    "the same letter 20,000 times": "a{20000}",
    "a text of a million letters": "(a{1000}){1000}",
    "many of anything": "(.{0,1000}x){1000}",
    "classes of Unicode": r"[\p{L}\p{N}]{0,5000}[\p{Lu}]{500}",
    "alternatives of classes": "|".join(rf"\p{{L}}{{{n}}}\p{{N}}" for n in range(100)),
    "letters in either case": f"(?i)({'|'.join(_word(20) for _ in range(1_000))})",
    "10,000 parentheses": "(" * 10_000 + "a" + ")" * 10_000,
    "a million characters": "x" * 1_000_000,
}
SCHEMAS = {
    # Crashes: overflows the stack.
    "a chain of references": _chain(3_000, lambda ref: _of(a=ref)),
    "a chain of references, each deep": _chain(100, lambda ref: _of(a=_of(a=_of(a=_of(a=ref))))),
    # Hang: minutes to hours.
    "properties beside alternatives": _nested(24, _either),
    "names beside the rest": _nested(
        12, lambda inner: {"additionalProperties": inner, "allOf": [{"properties": {"c": {}, "d": {}, "e": {}}}]}
    ),
    "items beside the rest": _nested(12, lambda inner: {"items": inner, "allOf": [{"prefixItems": [{}, {}, {}]}]}),
    "patterns beside names": _nested(
        12, lambda inner: {"patternProperties": {"^a": inner}, "properties": {"a1": {}, "a2": {}, "a3": {}}}
    ),
    "references merged three times": _chain(
        24, lambda ref: {"properties": {name: {"allOf": [ref, {"type": "object"}]} for name in "abc"}}
    ),
    "multiples of a large prime": _of(a={"type": "integer", "multipleOf": 999_983}),
    "multiples of several": _strings(6, "anyOf", lambda n: {"type": "integer", "multipleOf": 97 - 2 * n}),
    "1,000 patterns": {"type": "object", "patternProperties": {f"^{_word(6)}": {} for _ in range(1_000)}},
    "10,000 optional properties": {"type": "object", "properties": {f"p{n}": {} for n in range(10_000)}},
    "lists in a list of 10,000": _strings(10_000, "enum", lambda n: [[n]]),
    # The rest is slow or large.
    "4,000 properties": _of(**{f"p{n}": {} for n in range(4_000)}),
    "20,000 words to choose from": _strings(20_000, "enum", lambda n: f"v{n}"),
    "5,000 alternatives": _strings(5_000, "anyOf", lambda n: {"const": n}),
    "400 objects to choose from": _strings(400, "anyOf", lambda n: {"type": "object", "properties": {_word(3): {}}}),
    "400 words at any place": _strings(400, "anyOf", lambda n: {"type": "string", "pattern": _word(3)}),
    "products of alternatives": _strings(
        8, "allOf", lambda n: {"anyOf": [{"properties": {f"a{n}_{each}": {"const": each}}} for each in range(6)]}
    ),
    "patterns at once": _strings(12, "allOf", lambda n: {"type": "string", "pattern": _word(4)}),
    "an array of a billion": _of(a={"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
    "a string of 10**12": _of(a={"type": "string", "maxLength": 10**12}),
    "a pattern of a million": _of(a={"type": "string", "pattern": "^a{1000000}$"}),
    "a constant of 100,000 letters": _of(a={"const": _word(100_000)}),
    "a name of 100,000 letters": _of(**{_word(100_000): {}}),
    "10**300": _of(a={"type": "integer", "minimum": 10**300, "maximum": 10**301}),
    "90 levels": _nested(40, lambda inner: {"type": "array", "items": inner}),
    "itself": {"$ref": "#"},
    "itself or itself": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "a tree without leaves": {**_of(a={"$ref": "#"}), "title": "never ends"},
}
