"""From text to constraint: what is kept, what threads may do, which tokenizers and end tokens work."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from walks import allowed_ids, compiler, text_of_bytes, walk

from ranvier.errors import GenerationError, ValidationError
from ranvier.grammar import GrammarCompiler, from_json_schema, from_regex
from ranvier.grammar import compiler as compiler_module
from serving import END, MARK, ONE_TWO, tokenizer_file

PERSON = from_json_schema(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


def fresh(cache_size: int = 128, end_ids: tuple[int, ...] = (END,), path: Path | None = None) -> GrammarCompiler:
    return GrammarCompiler(path or tokenizer_file(), eos_token_ids=frozenset(end_ids), cache_size=cache_size)


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(ValidationError) as caught:
        work()
    return str(caught.value)


@pytest.fixture
def num_compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the library compiled, in order."""
    texts: list[str] = []
    library = compiler_module.LLMatcher

    def counted(tokenizer: Any, text: str, **options: Any) -> Any:
        texts.append(text)
        return library(tokenizer, text, **options)

    monkeypatch.setattr(compiler_module, "LLMatcher", counted)
    return texts


def test_constraints_of_one_grammar_know_nothing_of_each_other() -> None:
    grammars = fresh()
    first, second = (grammars.compile(from_regex("ab")) for _ in range(2))
    first.accept(ord("a"))
    assert (allowed_ids(first), allowed_ids(second)) == ([ord("b")], [ord("a")])
    assert allowed_ids(grammars.compile(from_regex("ab"))) == [ord("a")]


def test_a_grammar_is_compiled_once_while_it_is_kept(num_compiled: list[str]) -> None:
    grammars = fresh(cache_size=2)
    a, b, c = (from_regex(letter) for letter in "abc")
    for text in (a, b, a, b, c, b, a):
        assert any(grammars.compile(text).allowed())
    assert num_compiled == [a, b, c, a]


def test_large_grammars_make_room_earlier(num_compiled: list[str]) -> None:
    """1 MiB of text is kept, so ten of 100,000 bytes."""
    grammars = fresh()
    texts = [from_json_schema({"enum": [f"{n}{'x' * 9_000}{each}" for each in range(11)]}) for n in range(12)]
    assert all(98_000 < len(text) < 101_000 for text in texts)
    for text in [*texts[:10], *texts[:10], *texts[10:], texts[0]]:
        grammars.compile(text)
    assert num_compiled == [*texts, texts[0]]


def test_no_grammar_is_kept_where_none_may_be(num_compiled: list[str]) -> None:
    grammars = fresh(cache_size=0)
    for _ in range(2):
        assert allowed_ids(grammars.compile(from_regex("a"))) == [ord("a")]
    assert len(num_compiled) == 2


def test_the_tokenizer_is_read_with_the_first_grammar_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = compiler_module.with_hidden_specials

    def counted(path: Path, end_ids: frozenset[int]) -> tuple[str, frozenset[int]]:
        reads.append(path)
        return read(path, end_ids)

    monkeypatch.setattr(compiler_module, "with_hidden_specials", counted)
    grammars = fresh()
    assert reads == []
    barrier = threading.Barrier(4)

    def work(n: int) -> list[int]:
        barrier.wait()
        return allowed_ids(grammars.compile(from_regex(f"{n}")))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [[ord(str(n))] for n in range(4)]
    assert reads == [tokenizer_file()]


def test_many_threads_get_what_one_gets() -> None:
    texts = [PERSON, from_regex("[a-f]{3,9}x"), from_regex(r"(\w+ ){2}\w+"), from_json_schema({"type": "object"})]
    alone = {(text, seed): walk(compiler().compile(text), seed) for text in texts for seed in range(6)}
    grammars = fresh(cache_size=2)

    def work(case: tuple[str, int]) -> list[int] | None:
        return walk(grammars.compile(case[0]), case[1])

    cases = random.Random(0).sample([*alone] * 3, 3 * len(alone))
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, cases)) == [alone[case] for case in cases]


@pytest.mark.parametrize("text", ["", "{}", "no grammar", '{"grammars":[]}', "\ud800", 'start: "a"\nother'])
def test_a_text_that_is_none_of_ours_is_refused(text: str) -> None:
    assert refusal(lambda: compiler().compile(text)).startswith("grammar is not valid: ")


def test_a_text_beyond_the_limit_is_refused_at_once() -> None:
    message = "cannot compile regex from schema: the grammar has 131073 bytes and the limit is 131072; make it smaller"
    assert refusal(lambda: compiler().compile("x" * 131_073)) == message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "its file cannot be read (No such file or directory)"),
        ("{", "its file is no complete `tokenizer.json` (Expecting property name"),
        ("[]", "its file is no complete `tokenizer.json` (list indices must be integers"),
        ("{}", "its file is no complete `tokenizer.json` ('added_tokens')"),
        ('{"added_tokens":[],"model":{"vocab":3}}', "its file is no complete `tokenizer.json` (object of type 'int'"),
        ('{"added_tokens":[],"model":{"type":"BPE","vocab":{},"merges":[]}}', ""),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_named_as_the_reason(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    grammars = fresh(path=path)
    for _ in range(2):
        message = refusal(lambda: grammars.compile(from_regex("a")))
        assert message.startswith(f"grammar is not supported with this model's tokenizer: {reason}")
        assert message.endswith("; send the request without one")


def test_every_end_token_may_end_an_output() -> None:
    constraint = fresh(end_ids=(END, MARK)).compile(from_regex("a?"))
    assert allowed_ids(constraint) == [ord("a"), END, MARK]
    constraint.accept(ord("a"))
    assert constraint.is_complete
    assert allowed_ids(constraint) == [END, MARK]


def test_an_end_token_beyond_the_tokenizers_ids_may_end_an_output() -> None:
    constraint = fresh(end_ids=(400,)).compile(from_regex("a"))
    constraint.accept(ord("a"))
    assert allowed_ids(constraint) == [400]


def test_without_an_end_token_an_output_ends_when_it_is_whole() -> None:
    """While it may go on it goes on: no token stands for the end."""
    grammars = fresh(end_ids=())
    constraint = grammars.compile(from_regex("ab?"))
    constraint.accept(ord("a"))
    assert (allowed_ids(constraint), constraint.is_complete) == ([ord("b")], False)
    constraint.accept(ord("b"))
    assert (allowed_ids(constraint), constraint.is_complete) == ([], True)


def test_special_tokens_are_never_allowed_inside_an_output() -> None:
    """Ordinary added tokens are text as any other."""
    for text in (from_regex("(?s).*"), from_json_schema({"type": "string"})):
        constraint = fresh().compile(text)
        constraint.accept(ord('"'))
        assert {MARK, END}.intersection(allowed_ids(constraint)) <= ({END} if "lark" in text else set())
        assert ONE_TWO in allowed_ids(constraint)


@pytest.mark.parametrize("name", ["<|end|>", "<|mark|>", "a<|end|>b"])
def test_text_that_spells_a_special_token_is_written_with_ordinary_tokens(name: str) -> None:
    """llguidance alone allows only the special token here, which ends the output or is missing in its text."""
    for grammar in (from_json_schema({"const": name}), from_regex('"' + name.replace("|", r"\|") + '"')):
        ids = walk(compiler().compile(grammar), 0)
        assert ids == list(json.dumps(name).encode())


def test_a_constraint_refuses_what_is_not_allowed_and_stays_refused() -> None:
    constraint = compiler().compile(from_regex("ab"))
    for _ in range(2):
        with pytest.raises(GenerationError, match=r"^the grammar cannot go on: .*; make it simpler$"):
            constraint.accept(ord("b"))
        with pytest.raises(GenerationError, match="^the grammar cannot go on: "):
            constraint.allowed()
        assert not constraint.is_complete


@pytest.mark.parametrize("token_id", [MARK, END, 100_000])
def test_a_token_without_a_place_in_the_grammar_is_refused(token_id: int) -> None:
    constraint = compiler().compile(from_regex("ab"))
    with pytest.raises(GenerationError, match="^the grammar cannot go on: "):
        constraint.accept(token_id)


def test_a_grammar_that_reaches_its_limits_says_so() -> None:
    constraint = compiler().compile(from_regex("(((a{1,100}){1,100}){1,100}){1,100}"))
    with pytest.raises(GenerationError, match="^the grammar cannot go on: lexer error: too many expressions"):
        for _ in range(1_000):
            constraint.allowed()
            constraint.accept(ord("a"))


def test_after_its_end_token_an_output_may_only_end_again() -> None:
    constraint = compiler().compile(from_regex("a*"))
    assert not constraint.is_complete
    for _ in range(3):
        constraint.accept(END)
        assert constraint.is_complete
        assert allowed_ids(constraint) == [END]


def test_a_mask_can_be_asked_for_twice() -> None:
    constraint = compiler().compile(from_regex("[ab]c"))
    assert constraint.allowed() == constraint.allowed()
    constraint.accept(ord("a"))
    assert allowed_ids(constraint) == [ord("c")]


def test_nothing_but_the_end_follows_an_output_whose_number_cannot_go_on() -> None:
    """A regression test: after `0`, which is a multiple of 2, the library allows only the end but has not stopped."""
    constraint = compiler().compile(from_json_schema({"type": "number", "multipleOf": 2}))
    constraint.accept(ord("0"))
    assert allowed_ids(constraint) == [END]
    assert constraint.is_complete


def test_outputs_are_text() -> None:
    """Tokens end in the middle of characters; a whole output does not."""
    grammar = from_regex(r"[\u4f60\u00e9\U0001F600]{1,20}")
    texts = [text_of_bytes(walk(compiler().compile(grammar), seed) or []) for seed in range(20)]
    assert set("".join(texts)) == set("\u4f60\u00e9\U0001f600")
