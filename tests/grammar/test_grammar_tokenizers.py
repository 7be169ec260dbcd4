"""Tokenizers of every kind: their tokens spell what the grammar allows, or they are refused by name.

The tokenizers are those of `text/small_tokenizers.py`: the same text of tokens that the server's detokenizer gives.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from walks import walk

from ranvier.errors import ValidationError
from ranvier.grammar import GrammarCompiler, from_json_schema, from_regex
from text.small_tokenizers import KINDS, library_tokenizer, special_ids

SCHEMA = {
    "type": "object",
    "properties": {"hello": {"type": "string", "maxLength": 12}, "n": {"type": "array", "items": {"type": "integer"}}},
    "required": ["hello", "n"],
    "additionalProperties": False,
}
WORKING = ["byte_level", "llama_style", "gemma_style", "unigram_with_bytes"]
REFUSED = ["unigram", "word_piece", "word_end", "whole_words"]


def compiler_of(kind: str, tmp_path: Path, end_id: int) -> GrammarCompiler:
    path = tmp_path / "tokenizer.json"
    path.write_text(library_tokenizer(KINDS[kind]()).to_str(), encoding="utf-8")
    return GrammarCompiler(path, eos_token_ids=frozenset({end_id}))


@pytest.mark.parametrize("kind", WORKING)
def test_the_detokenized_output_is_what_the_grammar_allows(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()
    end_id = special_ids(tokenizer)[-1]
    grammars = compiler_of(kind, tmp_path, end_id)

    def pick(rng: random.Random, allowed: list[int], step: int) -> int:
        closing = [each for each in allowed if set(tokenizer.decode([each], skip_special_tokens=False)) & set('"]}')]
        return rng.choice(closing if closing and rng.random() < step / 30 else allowed)

    num_finished = 0
    for seed in range(20):
        constraint = grammars.compile(from_json_schema(SCHEMA))
        ids = walk(constraint, seed, end_ids=frozenset({end_id}), pick=pick)
        if ids is not None:
            assert not any(map(tokenizer.is_special, ids))
            # The server detokenizes behind a prompt, where no leading space is dropped.
            detokenizer = tokenizer.detokenizer(tokenizer.encode("hello"))
            for each in ids:
                detokenizer.push(each)
            detokenizer.flush()
            assert list(json.loads(detokenizer.generated_text)) == ["hello", "n"]
            num_finished += 1
    assert num_finished > 16


@pytest.mark.parametrize("kind", WORKING)
def test_forced_text_never_becomes_a_special_token(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()
    special = special_ids(tokenizer)
    names = [tokenizer.decode([each], skip_special_tokens=False).strip() for each in special]
    grammars = compiler_of(kind, tmp_path, special[-1])
    for name in names:
        constraint = grammars.compile(from_json_schema({"const": name}))
        ids = walk(constraint, 1, end_ids=frozenset(special[-1:]), pick=lambda rng, allowed, step: rng.choice(allowed))
        assert ids is not None and not set(special).intersection(ids)
        assert json.loads(tokenizer.decode(ids, skip_special_tokens=True)) == name


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        compiler_of(kind, tmp_path, 1).compile(from_regex("a"))
    message = "grammar is not supported with this model's tokenizer: can't determine decoder type: "
    assert str(caught.value).startswith(message)


def test_a_tokenizer_that_the_library_panics_at_is_refused(tmp_path: Path) -> None:
    content = json.loads(library_tokenizer(KINDS["gemma_style"]()).to_str())
    content["model"]["vocab"]["<0xZZ>"] = len(content["model"]["vocab"])
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    grammars = GrammarCompiler(path, eos_token_ids=frozenset({2}))
    for _ in range(2):
        with pytest.raises(ValidationError, match="^grammar is not supported with this model's tokenizer: "):
            grammars.compile(from_regex("a"))
