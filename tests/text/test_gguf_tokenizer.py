from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from ranvier.errors import ModelError
from ranvier.text import (
    Tokenizer,
    end_token_ids_from_gguf,
    tokenizer_config_from_gguf,
    tokenizer_json_from_gguf,
)

SPACE = "\u2581"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["h e", "l l", "he ll", "hell o", "\u0120 w", "1 2", "\u0120 \u0120"]
CONTROL = ["<|im_start|>", "<|im_end|>"]
NORMAL, UNKNOWN, CONTROL_TYPE, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SCORED = ["h", "e", "l", "o", "w", SPACE, "he", "ll", "lo", f"{SPACE}he", "llo", f"{SPACE}hello", SPACE * 2, "ell"]


def byte_level_metadata(**changes: object) -> dict[str, object]:
    """Metadata of a `gpt2` file; keys in `changes` lack the prefix `tokenizer.ggml.`."""
    tokens = [*CONTROL, *ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "<tool>"]
    values: dict[str, object] = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [CONTROL_TYPE] * 2 + [NORMAL] * (len(tokens) - 3) + [USER_DEFINED],
        "merges": MERGES,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "add_bos_token": False,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (values | changes).items() if value is not None}


def sentencepiece_metadata(**changes: object) -> dict[str, object]:
    """Metadata of a `llama` file: unknown, BOS, EOS, the bytes, then tokens with falling scores, then a marker."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, *SCORED, "<start_of_turn>"]
    values: dict[str, object] = {
        "model": "llama",
        "tokens": tokens,
        "token_type": [UNKNOWN, CONTROL_TYPE, CONTROL_TYPE, *[BYTE] * 256, *[NORMAL] * len(SCORED), CONTROL_TYPE],
        "scores": [0.0] * 259 + [-float(rank) for rank in range(len(SCORED))] + [0.0],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (values | changes).items() if value is not None}


def built(metadata: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_json(tokenizer_json_from_gguf(metadata))


def spelled(metadata: dict[str, object], text: str) -> list[str]:
    """Spellings of the tokens of `text`."""
    tokens: Any = metadata["tokenizer.ggml.tokens"]
    return [tokens[token_id] for token_id in built(metadata).encode(text)]


def words(pre: str, text: str) -> list[str]:
    """The words that the named pre-tokenizer cuts a text into."""
    library = tokenizers.Tokenizer.from_str(tokenizer_json_from_gguf(byte_level_metadata(pre=pre)))
    return [text[start:stop] for _, (start, stop) in library.pre_tokenizer.pre_tokenize_str(text)]


def test_byte_level_tokens_follow_the_merges() -> None:
    assert spelled(byte_level_metadata(), "hello world") == ["hello", "\u0120w", "o", "r", "l", "d"]


def test_every_token_keeps_its_id() -> None:
    metadata = byte_level_metadata()
    tokens: Any = metadata["tokenizer.ggml.tokens"]
    tokenizer = built(metadata)

    assert [tokenizer.token_id(token) for token in tokens] == list(range(len(tokens)))
    assert tokenizer.vocab_size == len(tokens)


def test_control_and_user_defined_tokens_in_the_text_are_one_token_each() -> None:
    text = "<|im_start|>hello<tool><|im_end|>"
    tokenizer = built(byte_level_metadata())

    assert spelled(byte_level_metadata(), text) == ["<|im_start|>", "hello", "<tool>", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == "hello<tool>"


def test_an_end_token_typed_as_normal_is_special_all_the_same() -> None:
    tokens: Any = byte_level_metadata()["tokenizer.ggml.tokens"]
    metadata = byte_level_metadata(token_type=[NORMAL] * len(tokens), eos_token_id=None, eot_token_id=1)
    tokenizer = built(metadata)

    assert spelled(metadata, "o<|im_end|>") == ["o", "<|im_end|>"]
    assert [tokenizer.is_special(token_id) for token_id in (0, 1, 2)] == [True, True, False]


@given(text=st.text(max_size=30))
@settings(deadline=None)
def test_byte_level_text_round_trips(text: str) -> None:
    tokenizer = built(byte_level_metadata())

    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@given(text=st.text(alphabet="ab 1\u0661\u00bd\n\t'.,s\u4f60\u0301\u2003!", max_size=30))
@settings(deadline=None)
def test_smollm_is_single_digits_then_the_words_of_gpt2(text: str) -> None:
    reference = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )

    assert words("smollm", text) == [text[start:stop] for _, (start, stop) in reference.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["It", "'s", " 12345", "!!", "\n\n ", " aBc"]),
        ("smollm", ["It", "'s", " ", "1", "2", "3", "4", "5", "!!", "\n\n ", " aBc"]),
        ("default", ["It", "'", "s", " ", "123", "45", "!!", "\n\n ", " aBc"]),
        ("falcon", ["It", "'", "s", " ", "123", "45", "!!", "\n\n ", " aBc"]),
        ("llama-bpe", ["It", "'s", " ", "123", "45", "!!\n\n", " ", " aBc"]),
        ("llama3", ["It", "'s", " ", "123", "45", "!!\n\n", " ", " aBc"]),
        ("qwen2", ["It", "'s", " ", "1", "2", "3", "4", "5", "!!\n\n", " ", " aBc"]),
        ("tekken", ["It", "'s", " ", "1", "2", "3", "4", "5", "!!\n\n", " ", " a", "Bc"]),
        ("gpt-4o", ["It's", " ", "123", "45", "!!\n\n", " ", " a", "Bc"]),
        ("deepseek-v3", ["It", "'s", " ", "123", "45", "!!\n\n", " ", " aBc"]),
        ("deepseek-coder", ["It", "'", "s", " ", "1", "2", "3", "4", "5", "!!", "\n", "\n", " ", " aBc"]),
    ],
)
def test_each_pre_tokenizer_cuts_words_its_own_way(pre: str, expected: list[str]) -> None:
    assert words(pre, "It's 12345!!\n\n  aBc") == expected


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("llama-bpe", "IT'LL", ["IT", "'LL"]),
        ("gpt-2", "IT'LL", ["IT", "'", "LL"]),
        ("qwen35", "e\u0301a", ["e\u0301a"]),
        ("deepseek-v3", "a\u4f60\u597d\u306f", ["a", "\u4f60\u597d\u306f"]),
        ("deepseek-coder", "a \ud55c\u4f60", ["a", " ", "\ud55c\u4f60"]),
    ],
)
def test_pre_tokenizers_differ_on_case_marks_and_scripts(pre: str, text: str, expected: list[str]) -> None:
    assert words(pre, text) == expected


def test_a_file_without_a_pre_tokenizer_name_uses_the_default_one() -> None:
    named, unnamed = byte_level_metadata(pre="default"), byte_level_metadata(pre=None)

    assert tokenizer_json_from_gguf(named) == tokenizer_json_from_gguf(unnamed)


def test_qwen2_composes_characters_first() -> None:
    tokenizer = built(byte_level_metadata(pre="qwen2"))

    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


@pytest.mark.parametrize(("pre", "expected"), [("llama-bpe", ["wxyz"]), ("smaug-bpe", ["w", "x", "y", "z"])])
def test_llama_3_takes_a_word_in_the_vocabulary_without_merging(pre: str, expected: list[str]) -> None:
    metadata = byte_level_metadata(pre=pre, tokens=[*CONTROL, *ALPHABET, "wxyz"], token_type=None, merges=[])

    assert spelled(metadata | {"tokenizer.ggml.add_bos_token": False}, "wxyz") == expected


def test_merges_of_tokens_that_the_vocabulary_lacks_are_left_out() -> None:
    metadata = byte_level_metadata(merges=["q q", *MERGES, "xx y"])

    assert spelled(metadata, "qqhello") == ["q", "q", "hello"]


def test_bos_and_eos_are_put_around_a_text_when_the_file_says_so() -> None:
    tokenizer = built(byte_level_metadata(add_bos_token=True, add_eos_token=True))
    hello = tokenizer.token_id("hello")

    assert tokenizer.encode("hello") == [0, hello, 1]
    assert tokenizer.encode("hello", add_special_tokens=False) == [hello]


@pytest.mark.parametrize(("pre", "adds"), [("llama-bpe", True), ("tekken", True), ("qwen2", False), ("smollm", False)])
def test_a_file_that_does_not_say_adds_bos_as_its_pre_tokenizer_implies(pre: str, adds: bool) -> None:
    metadata = byte_level_metadata(pre=pre, add_bos_token=None)

    assert (built(metadata).encode("hello")[0] == 0) is adds
    assert tokenizer_config_from_gguf(metadata)["add_bos_token"] is adds


def test_sentencepiece_text_starts_with_bos_and_a_space() -> None:
    assert spelled(sentencepiece_metadata(), "hell") == ["<s>", f"{SPACE}he", "ll"]


def test_the_pair_with_the_highest_score_is_joined_first() -> None:
    scores = [0.0] * 259 + [9.0 if token in ("ll", "ell") else -1.0 for token in SCORED] + [0.0]

    assert spelled(sentencepiece_metadata(scores=scores), "hell") == ["<s>", SPACE, "h", "ell"]


def joined_by_score(text: str) -> list[str]:
    """SentencePiece's BPE, spelled out: join the best adjacent pair, the leftmost first, until none is a token."""
    parts = list(text)
    while True:
        pairs = [
            (SCORED.index(a + b), n) for n, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in SCORED
        ]
        if not pairs:
            return parts
        at = min(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(text=st.text(alphabet="helow ", min_size=1, max_size=24))
@settings(max_examples=300, deadline=None)
def test_merges_made_from_scores_join_what_sentencepiece_joins(text: str) -> None:
    assert spelled(sentencepiece_metadata(), text)[1:] == joined_by_score(SPACE + text.replace(" ", SPACE))


def test_characters_outside_the_vocabulary_become_their_bytes() -> None:
    assert spelled(sentencepiece_metadata(), "h\u00e9")[-2:] == ["<0xC3>", "<0xA9>"]


@pytest.mark.parametrize("prefix", [True, False])
@given(text=st.text(max_size=30))
@settings(deadline=None)
def test_sentencepiece_text_round_trips(prefix: bool, text: str) -> None:
    tokenizer = built(sentencepiece_metadata(add_space_prefix=prefix))
    ids = tokenizer.encode(text, add_special_tokens=False)
    detokenizer = tokenizer.detokenizer([])
    joined = "".join(detokenizer.push(token_id)[1] for token_id in ids) + detokenizer.flush()

    assert tokenizer.decode(ids, skip_special_tokens=False) == joined == text.replace(SPACE, " ")


def test_without_space_prefix_a_text_starts_as_it_is() -> None:
    metadata = sentencepiece_metadata(add_space_prefix=False, add_bos_token=False)

    assert spelled(metadata, "hello") == ["he", "llo"]
    assert spelled(metadata, " he") == [f"{SPACE}he"]
    assert built(metadata).decode(built(metadata).encode(" he"), skip_special_tokens=True) == " he"


def test_control_tokens_split_a_sentencepiece_text() -> None:
    metadata = sentencepiece_metadata(add_space_prefix=False)

    assert spelled(metadata, "he<start_of_turn>o") == ["<s>", "he", "<start_of_turn>", "o"]


def test_the_configuration_spells_out_the_special_tokens_and_the_template() -> None:
    metadata = byte_level_metadata() | {"tokenizer.chat_template": "{{ messages }}"}

    assert tokenizer_config_from_gguf(metadata) == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": "{{ messages }}",
        "add_bos_token": False,
    }


def test_the_configuration_leaves_out_what_the_file_lacks() -> None:
    metadata = byte_level_metadata(bos_token_id=None, eos_token_id=None)

    assert tokenizer_config_from_gguf(metadata) == {"add_bos_token": False}


def test_a_sentencepiece_file_has_the_usual_special_tokens_without_naming_them() -> None:
    assert tokenizer_config_from_gguf(sentencepiece_metadata()) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
    }


def test_several_templates_are_named() -> None:
    metadata = sentencepiece_metadata() | {
        "tokenizer.chat_template": "{{ plain }}",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }

    assert tokenizer_config_from_gguf(metadata)["chat_template"] == [
        {"name": "tool_use", "template": "{{ tools }}"},
        {"name": "default", "template": "{{ plain }}"},
    ]


def test_a_generation_ends_at_the_ids_that_the_file_names() -> None:
    metadata = byte_level_metadata(eos_token_id=2, eot_token_id=3, eom_token_id=4)

    # Besides these `<|im_end|>`, which has id 1.
    assert end_token_ids_from_gguf(metadata) == [1, 2, 3, 4]


@pytest.mark.parametrize("end", ["<|eot_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"])
def test_a_generation_ends_at_tokens_known_to_end_a_turn_and_they_are_special(end: str) -> None:
    tokens: Any = sentencepiece_metadata()["tokenizer.ggml.tokens"]
    metadata = sentencepiece_metadata(
        tokens=[*tokens[:-1], end], token_type=[*[NORMAL] * (len(tokens) - 1), USER_DEFINED]
    )

    assert end_token_ids_from_gguf(metadata) == [2, len(tokens) - 1]
    assert built(metadata).is_special(len(tokens) - 1)


def test_a_file_that_names_no_end_has_none() -> None:
    tokens: Any = byte_level_metadata()["tokenizer.ggml.tokens"]
    metadata = byte_level_metadata(eos_token_id=None, tokens=["<|a|>", "<|b|>", *tokens[2:]])

    assert end_token_ids_from_gguf(metadata) == []


@pytest.mark.parametrize(("name", "eats"), [("Phi-3 Mini 4k Instruct", True), ("phi3", True), ("Tiny Llama", False)])
def test_only_markers_of_phi_3_swallow_the_white_space_after_them(name: str, eats: bool) -> None:
    metadata = sentencepiece_metadata(add_bos_token=False, add_space_prefix=False) | {"general.name": name}

    assert spelled(metadata, "<start_of_turn> \n h") == (
        ["<start_of_turn>", "h"] if eats else ["<start_of_turn>", SPACE, "<0x0A>", SPACE, "h"]
    )
    assert spelled(metadata, "<s> h") == ["<s>", SPACE, "h"]


@pytest.mark.parametrize(("pre", "count"), [("falcon", 2), ("gpt-2", 1)])
def test_digits_among_the_bytes_of_a_character_are_cut_by_falcon(pre: str, count: int) -> None:
    """The second byte of \u043c is BC, whose character is \u00bc, a number."""
    metadata = byte_level_metadata(
        pre=pre, tokens=[*CONTROL, *ALPHABET, "\u00d0\u00bc"], token_type=None, merges=["\u00d0 \u00bc"]
    )

    assert len(built(metadata).encode("\u043c")) == count


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (byte_level_metadata(model="rwkv"), r"`tokenizer\.ggml\.model` is 'rwkv'; supported: gpt2, llama\."),
        (
            byte_level_metadata(pre="klingon"),
            r"`tokenizer\.ggml\.pre` is 'klingon'; supported: chatglm-bpe, .*tekken\.",
        ),
        ({}, r"`tokenizer\.ggml\.model` is missing"),
        (byte_level_metadata(tokens=None), r"`tokenizer\.ggml\.tokens` is missing"),
        (byte_level_metadata(merges=None), r"`tokenizer\.ggml\.merges` is missing"),
        (byte_level_metadata(merges=["he"]), r"`tokenizer\.ggml\.merges` holds 'he', not two tokens"),
        (byte_level_metadata(tokens="abc"), r"`tokenizer\.ggml\.tokens` must be list\. Given: str"),
        (byte_level_metadata(tokens=[1]), r"`tokenizer\.ggml\.tokens` must hold only str"),
        (byte_level_metadata(token_type=[1]), r"`tokenizer\.ggml\.token_type` must have 266 entries.* Given: 1$"),
        (byte_level_metadata(eos_token_id=266), r"`tokenizer\.ggml\.eos_token_id` must be >= 0 and < 266\. Given: 266"),
        (byte_level_metadata(bos_token_id=None, add_bos_token=True), r"`tokenizer\.ggml\.bos_token_id` is missing"),
        (byte_level_metadata(add_bos_token=1), r"`tokenizer\.ggml\.add_bos_token` must be bool\. Given: int"),
        (sentencepiece_metadata(scores=None), r"`tokenizer\.ggml\.scores` is missing"),
        (sentencepiece_metadata(scores=[0.0]), r"`tokenizer\.ggml\.scores` must have 274 entries"),
    ],
)
def test_what_cannot_be_rebuilt_is_a_model_error_that_names_the_key(metadata: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tokenizer_json_from_gguf(metadata)


def test_the_document_is_what_the_library_writes_itself() -> None:
    for metadata in (byte_level_metadata(add_bos_token=True), sentencepiece_metadata()):
        text = tokenizer_json_from_gguf(metadata)
        again = json.loads(tokenizers.Tokenizer.from_str(text).to_str())

        assert {key: again[key] for key in ("added_tokens", "post_processor", "decoder", "normalizer")} == {
            key: json.loads(text)[key] for key in ("added_tokens", "post_processor", "decoder", "normalizer")
        }
