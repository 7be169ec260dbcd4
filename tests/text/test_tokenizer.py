from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import KINDS, byte_level, library_tokenizer, llama_style

import ranvier.text
from ranvier.errors import ModelError, ValidationError
from ranvier.text import Tokenizer

TEXTS = st.text(max_size=20) | st.sampled_from(["hello w\u00e9", "a\U0001f44db<|im_end|>\u4f60\u597d", "   he"])


def written(directory: Path, text: str) -> Path:
    path = directory / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_package_exports_exactly_what_it_lists() -> None:
    assert ranvier.text.__all__ == sorted(ranvier.text.__all__)
    assert [name for name in ranvier.text.__all__ if not hasattr(ranvier.text, name)] == []


def test_a_file_gives_the_same_tokenizer_as_its_text(tmp_path: Path) -> None:
    text = library_tokenizer(byte_level()).to_str()
    tokenizer = Tokenizer.from_file(written(tmp_path, text))

    assert tokenizer.encode("hello") == byte_level().encode("hello")
    assert tokenizer.vocab_size == byte_level().vocab_size


def test_a_missing_file_is_named_with_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"

    with pytest.raises(ModelError) as raised:
        Tokenizer.from_file(path)
    message = str(raised.value)
    assert str(path) in message
    assert "`tokenizer.json` is needed" in message
    assert "tokenizer.model" not in message
    assert "\n" not in message


def test_a_lone_sentencepiece_file_is_mentioned(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"")

    with pytest.raises(ModelError, match=r"only `tokenizer\.model` lies beside it"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}', '{"model": {"type": "Magic"}}'])
def test_a_damaged_file_is_named_with_the_reason_in_one_line(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)

    with pytest.raises(ModelError, match="is not a readable `tokenizer.json`: .+; a complete") as raised:
        Tokenizer.from_file(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_text_is_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ModelError, match="is not a readable"):
        Tokenizer.from_file(path)
    with pytest.raises(ModelError, match="is not a readable"):
        Tokenizer.from_file(tmp_path)


def test_damaged_json_text_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="the tokenizer given as JSON text is not a readable"):
        Tokenizer.from_json("{}")


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    document = json.loads(library_tokenizer(byte_level()).to_str())
    document["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    tokenizer = Tokenizer.from_json(json.dumps(document))

    assert tokenizer.encode("abcde") == byte_level().encode("abcde")


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(text=TEXTS)
@settings(deadline=None)
def test_offsets_are_byte_positions_of_the_same_tokens(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    data = text.encode()
    tokens = tokenizer.encode_with_offsets(text)

    assert [token_id for token_id, _, _ in tokens] == tokenizer.encode(text)
    for _, start, stop in tokens:
        assert 0 <= start <= stop <= len(data)
        data[start:stop].decode()  # whole characters


def test_byte_level_offsets_cut_the_text_into_its_tokens() -> None:
    text = "he \u00e9<|im_end|>a"
    data = text.encode()
    tokens = byte_level().encode_with_offsets(text)

    assert [data[start:stop].decode() for _, start, stop in tokens] == [
        "he", " ", "\u00e9", "\u00e9", "<|im_end|>", "a",
    ]  # fmt: skip
    assert [(start, stop) for _, start, stop in tokens] == [(0, 2), (2, 3), (3, 5), (3, 5), (5, 15), (15, 16)]


def test_special_tokens_are_added_only_when_asked_for_and_span_nothing() -> None:
    document = json.loads(library_tokenizer(llama_style()).to_str())
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    tokenizer = Tokenizer.from_json(json.dumps(document))
    word = tokenizer.token_id("\u2581hello")

    assert tokenizer.encode("hello") == [1, word]
    assert tokenizer.encode("hello", add_special_tokens=False) == [word]
    assert tokenizer.encode_with_offsets("hello") == [(1, 0, 0), (word, 0, 5)]
    assert tokenizer.encode_with_offsets("hello", add_special_tokens=False) == [(word, 0, 5)]


def test_special_tokens_are_decoded_or_skipped_as_asked() -> None:
    ids = byte_level().encode("<|im_start|>he<|im_end|>")

    assert byte_level().decode(ids, skip_special_tokens=False) == "<|im_start|>he<|im_end|>"
    assert byte_level().decode(ids, skip_special_tokens=True) == "he"


def test_only_added_tokens_flagged_special_are_special() -> None:
    tokenizer = byte_level()
    spellings = ["<|im_start|>", "<|im_end|>", "<tool>", "he"]

    assert [tokenizer.is_special(tokenizer.token_id(token) or 0) for token in spellings] == [True, True, False, False]
    assert not tokenizer.is_special(tokenizer.vocab_size)


def test_a_token_is_found_by_its_spelling_in_the_vocabulary() -> None:
    assert byte_level().token_id("he") == 260
    assert byte_level().token_id("no such token") is None


def test_the_vocabulary_size_counts_added_tokens() -> None:
    assert byte_level().vocab_size == 256 + 8 + 6


def test_text_with_a_lone_surrogate_is_a_validation_error() -> None:
    with pytest.raises(ValidationError, match="^tokenizer error "):
        byte_level().encode("\ud800")
    with pytest.raises(ValidationError, match="^tokenizer error "):
        byte_level().encode_with_offsets("\ud800")
