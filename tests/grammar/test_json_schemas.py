"""What a grammar of a JSON Schema lets through is JSON and fits the schema, whatever the model would rather write.

`schemas.json` holds schemas in the manner of the JSON Schema test suite, by keyword. Those under `refused` use what is
not implemented, or are wrong; all others must compile.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import compiler, text_of_bytes, walk

import smollm2
from ranvier.errors import ValidationError
from ranvier.grammar import GrammarCompiler, any_json_object, from_json_schema
from smollm2 import needs_smollm2

SCHEMAS: dict[str, list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("schemas.json").read_text(encoding="utf-8")
)
REFUSED = SCHEMAS.pop("refused")
# The formats that the validator knows exactly, without libraries of their own.
FORMATS = jsonschema.FormatChecker(formats=["date", "email", "ipv4", "ipv6", "uuid"])


def check(schema: dict[str, Any], text: str) -> None:
    """Whether `text` is JSON and fits."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind(schema, format_checker=FORMATS).validate(json.loads(text))


def finished_walks(schema: dict[str, Any], seeds: range) -> int:
    """How many of the outputs were whole; each of those is checked."""
    text = from_json_schema(schema)
    walks = [walk(compiler().compile(text), seed) for seed in seeds]
    for ids in walks:
        if ids is not None:
            check(schema, text_of_bytes(ids))
    return sum(ids is not None for ids in walks)


def as_property(schema: dict[str, Any]) -> dict[str, Any]:
    """An object that needs a property of this schema; definitions move up."""
    inner = {key: value for key, value in schema.items() if key not in ("$defs", "definitions", "$schema", "$id")}
    outer = {key: value for key, value in schema.items() if key not in inner}
    return {**outer, "type": "object", "properties": {"p": inner}, "required": ["p"], "additionalProperties": False}


@pytest.mark.parametrize("keyword", SCHEMAS)
def test_every_whole_output_fits_its_schema(keyword: str) -> None:
    schemas = SCHEMAS[keyword]
    num_finished = sum(finished_walks(schema, range(6)) for schema in schemas)
    assert num_finished > 0.8 * 6 * len(schemas)


@pytest.mark.parametrize("keyword", SCHEMAS)
def test_the_same_holds_for_a_property_of_an_object(keyword: str) -> None:
    schemas = [as_property(each) for each in SCHEMAS[keyword] if '"#/p' not in json.dumps(each)]
    num_finished = sum(finished_walks(schema, range(3)) for schema in schemas)
    assert num_finished > 0.8 * 3 * len(schemas)


def test_there_are_300_schemas() -> None:
    assert len(REFUSED) + sum(map(len, SCHEMAS.values())) >= 300


@pytest.mark.parametrize("schema", REFUSED, ids=json.dumps)
def test_what_cannot_be_honoured_is_refused(schema: dict[str, Any]) -> None:
    """Or is honoured, should a later release of the library learn it."""
    try:
        finished_walks(schema, range(6))
    except ValidationError as error:
        assert str(error).startswith(("grammar is not valid: ", "cannot compile regex from schema: "))
        assert "\n" not in str(error)


def test_a_fraction_of_a_cent_is_never_written() -> None:
    """`multipleOf` in decimal, where the validator's floating point is wrong."""
    text = from_json_schema({"type": "number", "multipleOf": 0.01})
    for seed in range(20):
        ids = walk(compiler().compile(text), seed)
        assert ids is not None
        assert len(text_of_bytes(ids).partition(".")[2].rstrip("0")) <= 2


def test_any_object_is_any_object() -> None:
    texts = [text_of_bytes(ids) for seed in range(40) if (ids := walk(compiler().compile(any_json_object()), seed))]
    assert len(texts) > 32
    assert all(isinstance(json.loads(text), dict) for text in texts)
    assert len({text.translate({32: None, 10: None}) for text in texts}) > 5


def test_white_space_never_goes_on_for_ever() -> None:
    """A model that writes white space wherever it may is past it after at most 25 characters."""

    def blank_first(rng: random.Random, allowed: list[int], step: int) -> int:
        blank = {ord(" "), ord("\n")}.intersection(allowed)
        return min(blank) if blank else rng.choice([each for each in allowed if each < 128])

    schema = as_property({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 2})
    for seed in range(5):
        ids = walk(compiler().compile(from_json_schema(schema)), seed, pick=blank_first)
        assert ids is not None
        assert json.loads(text_of_bytes(ids)) == {"p": [None, None]}
        assert max(map(len, re.findall(r"\s+", text_of_bytes(ids)))) == 25


NAMES = st.sampled_from(["a", "b", "name", "", "\u00fc", 'q"', "$ref"])
SMALL = st.integers(0, 4)
LEAVES = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("string", "integer", "number", "boolean", "null")]),
    st.builds(lambda values: {"enum": values}, st.lists(st.none() | st.booleans() | NAMES | SMALL, min_size=1)),
    st.builds(lambda value: {"const": value}, NAMES | st.lists(SMALL) | st.dictionaries(NAMES, SMALL)),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size}, st.integers(-99, 99), SMALL
    ),
    st.builds(lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size}, SMALL, SMALL),
    st.builds(lambda text, n: {"type": "string", "pattern": f"^{text}{{{n}}}$"}, st.sampled_from("ax\u00e9"), SMALL),
)


def _object(properties: dict[str, Any], required: list[str], additional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": additional}


def _larger(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(schemas, min_size=1, max_size=3)
    return st.one_of(
        st.builds(_object, st.dictionaries(NAMES, schemas, max_size=4), st.lists(NAMES, max_size=3), st.just(False)),
        st.builds(_object, st.dictionaries(NAMES, schemas, max_size=2), st.lists(NAMES, max_size=2), schemas),
        st.builds(lambda each, n: {"type": "array", "items": each, "minItems": n, "maxItems": n + 1}, schemas, SMALL),
        st.builds(lambda each, more: {"type": "array", "prefixItems": each, "items": more}, lists, st.just(False)),
        st.builds(lambda key, each: {key: each}, st.sampled_from(["anyOf", "allOf", "oneOf"]), lists),
        st.builds(lambda each, more: {**each, "anyOf": more}, schemas, lists),
    )


def test_invented_schemas_are_refused_or_kept() -> None:
    counts = {"refused": 0, "finished": 0, "cut": 0}

    @given(st.recursive(LEAVES, _larger, max_leaves=8), st.integers(0, 2**32))
    @settings(max_examples=300, deadline=None, database=None)
    def run(schema: dict[str, Any], seed: int) -> None:
        try:
            is_whole = finished_walks(schema, range(seed, seed + 1))
        except ValidationError:
            counts["refused"] += 1
        else:
            counts["finished" if is_whole else "cut"] += 1

    run()
    assert counts["finished"] > 0.8 * (counts["finished"] + counts["cut"])
    assert counts["finished"] > 100


@needs_smollm2
def test_a_real_tokenizer_spells_the_same(tmp_path: Path) -> None:
    """Tokens of many characters, and among them those that end in the middle of one."""
    tokenizer = smollm2.tokenizer()
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer._library.to_str(), encoding="utf-8")
    end_ids = frozenset({0, 2})
    grammars = GrammarCompiler(path, eos_token_ids=end_ids)
    closing = {token_id for text in ('"', "}", "]") for token_id in tokenizer.encode(text)}

    def pick(rng: random.Random, allowed: list[int], step: int) -> int:
        near = closing.intersection(allowed)
        return rng.choice(sorted(near) if near and rng.random() < step / 30 else allowed)

    num_finished = 0
    for schema in [*SCHEMAS["nested"], *SCHEMAS["properties"][:4], *SCHEMAS["enum"], *SCHEMAS["strings"][:8]]:
        ids = walk(grammars.compile(from_json_schema(schema)), 7, end_ids=end_ids, pick=pick)
        if ids is not None:
            assert not any(map(tokenizer.is_special, ids))
            check(schema, tokenizer.decode(ids, skip_special_tokens=True))
            num_finished += 1
    assert num_finished > 30
