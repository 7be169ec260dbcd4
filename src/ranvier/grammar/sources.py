"""Texts of grammars: plain strings that the router checks, sends, and the engine compiles again.

White space in JSON is the model's choice between one line and indented lines, and bounded: at each place where JSON
allows it there may be one space, or one line break and up to 24 spaces. With any amount, llguidance's default, a small
model may go on with blank lines until its tokens end; with none it is pushed off the text it knows. Measured with
SmolLM2-135M-Instruct and six schemas: greedy, all outputs end within 200 tokens, but only four of six without white
space; sampled, the mean log-probability of a token is -0.76, against -0.77 with any amount, -0.97 with none and -1.13
with at most one space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ranvier.grammar.expansion import check_expansion
from ranvier.grammar.limits import DATA, MAX_GRAMMAR_BYTES, NAME_MAPS, check_schema
from ranvier.grammar.refusals import cannot_compile, not_valid
from ranvier.grammar.regexes import translated

_OPTIONS = {"whitespace_pattern": r"\x20|\n\x20{0,24}"}
_MAX_GIVEN = 1_048_576
_FORMATS = frozenset({"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
# What says nothing about the output, and llguidance's own options, which are the server's to set.
_DROPPED = frozenset({"title", "description", "$comment", "default", "examples", "example", "x-guidance", "$id"})


def from_json_schema(schema: str | Mapping[str, Any]) -> str:
    """Grammar of the JSON texts that a JSON Schema (draft 2020-12) accepts, given as an object or as its text.

    Properties come in the order of the schema. A `format` that is not enforced is left out: it is a remark. Raises
    ValidationError if the schema is no JSON object, or larger than the limits of `ranvier.grammar.limits`; what else
    is wrong with it comes to light when the text is compiled.
    """
    try:
        lean = _lean_schema(_parsed(schema))
        check_schema(lean)
        check_expansion(lean)
        return _text({"json_schema": {**lean, "x-guidance": _OPTIONS}})
    except RecursionError:
        raise not_valid("the schema is nested too deeply; make it flatter") from None
    except (ValueError, TypeError) as error:
        raise not_valid(f"the schema cannot be read as JSON: {error}") from None


def from_regex(regex: str) -> str:
    r"""Grammar of the texts that a regex matches as a whole; for its dialect see `ranvier.grammar.regexes`.

    Raises ValidationError if the regex is wrong, too large, or uses what is not supported.
    """
    return _text({"lark_grammar": f"start: /{translated(regex)}/"})


def any_json_object() -> str:
    """Grammar of all JSON objects."""
    return from_json_schema({"type": "object"})


def _parsed(schema: str | Mapping[str, Any]) -> Mapping[str, Any]:
    text = schema if isinstance(schema, str) else _json(schema)
    if len(text) > _MAX_GIVEN:
        raise cannot_compile(f"the schema has {len(text)} characters and the limit is {_MAX_GIVEN}; make it smaller")
    parsed = json.loads(text)
    if not isinstance(parsed, Mapping):
        raise not_valid("the schema must be a JSON object")
    return parsed


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _text(grammar: Mapping[str, Any]) -> str:
    text = _json({"grammars": [grammar]})
    num_bytes = len(text.encode())
    if num_bytes > MAX_GRAMMAR_BYTES:
        raise cannot_compile(f"the grammar has {num_bytes} bytes and the limit is {MAX_GRAMMAR_BYTES}; make it smaller")
    return text


def _lean_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without what is not for the compiler."""
    return {key: _lean_value(key, value) for key, value in schema.items() if not _is_dropped(key, value)}


def _is_dropped(key: str, value: Any) -> bool:
    if key == "format":
        return isinstance(value, str) and value not in _FORMATS
    return key in _DROPPED or (key == "uniqueItems" and value is False)


def _lean_value(key: str, value: Any) -> Any:
    if key in DATA:
        return value
    if key in NAME_MAPS and isinstance(value, Mapping):
        return {name: _lean(each) for name, each in value.items()}
    return _lean(value)


def _lean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _lean_schema(value)
    return [_lean(each) for each in value] if isinstance(value, list) else value
