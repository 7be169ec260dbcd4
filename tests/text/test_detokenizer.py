from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import KINDS, byte_level, llama_style, special_ids, word_end

from ranvier.text import Detokenizer, Tokenizer
from ranvier.text.detokenizer import WindowStream

SCRIPTS = [
    "hello world!",
    "  hello   world ",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 and \U0001f1eb\U0001f1f7",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "e\u0301a\u0308o\u0302 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "tab\tnewline\n\r\n\x00end",
    "\ufffd literal \ufffd",
]
WORDS = st.sampled_from([*SCRIPTS, " ", "  ", "hello", " wor", "a.", "\u00e9", "\u4f60", "\U0001f44d"])
TEXTS = st.lists(WORDS | st.text(max_size=8), max_size=6).map("".join)
ALL_KINDS = pytest.mark.parametrize("kind", sorted(KINDS))
PROMPT_AWARE = pytest.mark.parametrize("kind", sorted(set(KINDS) - {"byte_level"}))


def push_all(detokenizer: Detokenizer, ids: Sequence[int]) -> list[tuple[str, str]]:
    return [detokenizer.push(token_id) for token_id in ids]


def visible(tokenizer: Tokenizer, ids: Sequence[int], prompt_ids: Sequence[int] = ()) -> str:
    """The visible texts joined with what was held back, after a check that `generated_text` says the same."""
    detokenizer = tokenizer.detokenizer(prompt_ids)
    joined = "".join(text for _, text in push_all(detokenizer, ids)) + detokenizer.flush()
    assert joined == detokenizer.generated_text
    assert detokenizer.flush() == ""
    return joined


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Any ids: ordinary, special, and a few beyond the vocabulary."""
    ordinary = st.integers(0, tokenizer.vocab_size + 2)
    return st.lists(ordinary | st.sampled_from(special_ids(tokenizer)), max_size=40)


@ALL_KINDS
@given(text=TEXTS)
@settings(deadline=None)
def test_streamed_text_is_the_whole_decode_when_nothing_comes_before(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text)

    assert visible(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["byte_level", "gemma_style"])
@given(text=TEXTS)
@settings(deadline=None)
def test_text_survives_encoding_and_streaming_unchanged(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    text = text.replace("\u2581", "_")  # SentencePiece cannot tell it from a space

    assert visible(tokenizer, tokenizer.encode(text)) == text


@ALL_KINDS
@given(data=st.data())
@settings(deadline=None)
def test_special_tokens_anywhere_do_not_change_the_visible_text(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(data.draw(TEXTS))
    special = st.lists(st.sampled_from(special_ids(tokenizer)), max_size=2)
    mixed = [part for token_id in ids for part in (*data.draw(special), token_id)]

    assert visible(tokenizer, mixed) == visible(tokenizer, ids)
    assert visible(tokenizer, mixed) == tokenizer.decode(mixed, skip_special_tokens=True)


@given(ids=ids_of(byte_level()), prompt_ids=ids_of(byte_level()))
@settings(max_examples=500, deadline=None)
def test_byte_level_text_ignores_the_prompt_for_any_ids(ids: list[int], prompt_ids: list[int]) -> None:
    tokenizer = byte_level()

    assert visible(tokenizer, ids, prompt_ids) == tokenizer.decode(ids, skip_special_tokens=True)


@given(text=st.binary(max_size=12))
@settings(max_examples=500, deadline=None)
def test_byte_level_text_of_arbitrary_bytes_is_their_lossy_utf8(text: bytes) -> None:
    tokenizer = byte_level()
    byte_ids = [token_id for byte in text if (token_id := tokenizer.token_id(alphabet_character(byte))) is not None]

    assert visible(tokenizer, byte_ids) == text.decode("utf-8", "replace")


def alphabet_character(byte: int) -> str:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(0x100 + [value for value in range(0x100) if value not in printable].index(byte))


@given(ids=ids_of(byte_level()))
@settings(deadline=None)
def test_at_most_one_incomplete_character_is_held_back(ids: list[int]) -> None:
    tokenizer = byte_level()
    detokenizer = tokenizer.detokenizer([])

    for count, token_id in enumerate(ids, start=1):
        detokenizer.push(token_id)
        decoded = tokenizer.decode(ids[:count], skip_special_tokens=True)
        assert decoded in (detokenizer.generated_text, detokenizer.generated_text + "\ufffd")


@PROMPT_AWARE
@given(data=st.data())
@settings(deadline=None)
def test_text_after_a_prompt_is_what_it_adds_to_the_decoded_prompt(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    prompt_ids = tokenizer.encode(data.draw(TEXTS))
    ids = tokenizer.encode(data.draw(TEXTS))
    before = tokenizer.decode(prompt_ids, skip_special_tokens=True)
    both = tokenizer.decode(prompt_ids + ids, skip_special_tokens=True)

    assert both == before + visible(tokenizer, ids, prompt_ids)


@pytest.mark.parametrize("kind", ["llama_style", "gemma_style", "unigram_with_bytes"])
@given(data=st.data())
@settings(deadline=None)
def test_any_tokens_and_whole_byte_characters_follow_the_prompt(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    byte_ids = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in range(256)]
    other_ids = [token_id for token_id in range(tokenizer.vocab_size) if token_id not in byte_ids]
    # Spelled in bytes, the metaspace itself has no defined meaning.
    characters = st.characters(codec="utf-8", exclude_characters="\u2581").map(
        lambda character: [byte_ids[byte] or 0 for byte in character.encode()]
    )
    part = st.sampled_from(other_ids).map(lambda token_id: [token_id]) | characters
    ids = [token_id for each in data.draw(st.lists(part, max_size=12)) for token_id in each]
    prompt_ids = tokenizer.encode(data.draw(TEXTS))

    before = tokenizer.decode(prompt_ids, skip_special_tokens=True)
    both = tokenizer.decode(prompt_ids + ids, skip_special_tokens=True)
    assert both == before + visible(tokenizer, ids, prompt_ids)


@ALL_KINDS
@given(data=st.data())
@settings(deadline=None)
def test_any_ids_after_any_prompt_give_pieces_that_join_to_the_generated_text(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    ids, prompt_ids = data.draw(ids_of(tokenizer)), data.draw(ids_of(tokenizer))
    text = visible(tokenizer, ids, prompt_ids)

    assert text == visible(tokenizer, ids, prompt_ids)
    for special_id in special_ids(tokenizer):
        assert text == visible(tokenizer, [*ids, special_id], prompt_ids)


@pytest.mark.parametrize("kind", ["byte_level", "llama_style", "gemma_style"])
@given(data=st.data())
@settings(deadline=None)
def test_token_texts_join_to_the_decode_with_special_tokens_kept(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    prompt_ids = tokenizer.encode("hello")
    special = st.sampled_from([[], *([token_id] for token_id in special_ids(tokenizer))])
    texts = data.draw(st.lists(TEXTS, max_size=3))
    ids = [token_id for text in texts for token_id in (*data.draw(special), *tokenizer.encode(text))]
    detokenizer = tokenizer.detokenizer(prompt_ids)
    token_texts = "".join(text for text, _ in push_all(detokenizer, ids)) + detokenizer.flush()

    decoded = tokenizer.decode(prompt_ids + ids, skip_special_tokens=False)
    assert decoded == tokenizer.decode(prompt_ids, skip_special_tokens=False) + token_texts


def test_a_special_token_has_its_spelling_as_token_text_and_no_visible_text() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("he<|im_end|><tool>")

    assert push_all(tokenizer.detokenizer([]), ids) == [("he", "he"), ("<|im_end|>", ""), ("<tool>", "<tool>")]


def test_the_token_that_completes_a_character_carries_it_whole() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a\U0001f44d\u4f60b")

    texts = [text for text, _ in push_all(tokenizer.detokenizer([]), ids)]
    assert texts == ["a", "", "\U0001f44d", "", "\u4f60", "b"]


def test_byte_fallback_tokens_are_held_until_their_character_is_complete() -> None:
    tokenizer = llama_style()
    ids = [tokenizer.token_id(token) or 0 for token in ("he", "<0xE4>", "<0xBD>", "<0xA0>", "\u2581w")]

    assert [text for _, text in push_all(tokenizer.detokenizer([]), ids)] == ["he", "", "", "\u4f60", " w"]


def test_an_incomplete_character_at_the_end_is_flushed_as_one_replacement_character() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a\U0001f44d")[:-1]
    detokenizer = tokenizer.detokenizer([])

    assert "".join(text for _, text in push_all(detokenizer, ids)) == "a"
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.generated_text == "a\ufffd"


def test_a_special_token_between_the_bytes_of_a_character_leaves_the_visible_character_whole() -> None:
    tokenizer = byte_level()
    first, second, third = (tokenizer.token_id(character) or 0 for character in "\u00e5\u00a5\u00bd")
    end = tokenizer.token_id("<|im_end|>") or 0

    assert push_all(tokenizer.detokenizer([]), [first, end, second, third]) == [
        ("", ""),
        ("<|im_end|>", ""),
        ("", ""),
        ("\u597d", "\u597d"),
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [([], "hello hello"), (["<s>"], "hello hello"), (["<s>", "a"], " hello hello"), (["\u2581"], " hello hello")],
)
def test_the_first_word_keeps_its_space_only_after_visible_prompt_text(prompt: list[str], expected: str) -> None:
    tokenizer = llama_style()
    prompt_ids = [tokenizer.token_id(token) or 0 for token in prompt]
    word = tokenizer.token_id("\u2581hello") or 0

    assert visible(tokenizer, [word, word], prompt_ids) == expected


def test_ids_beyond_the_vocabulary_add_no_text() -> None:
    tokenizer = byte_level()
    beyond = tokenizer.vocab_size + 5

    assert push_all(tokenizer.detokenizer([beyond]), [beyond, *tokenizer.encode("he")]) == [("", ""), ("he", "he")]


def test_a_run_of_invalid_bytes_is_not_held_back() -> None:
    tokenizer = byte_level()
    continuation = tokenizer.token_id("\u0122") or 0  # the byte 0x80

    detokenizer = tokenizer.detokenizer([])
    assert push_all(detokenizer, [continuation] * 3000) == [("\ufffd", "\ufffd")] * 3000
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("text", ["", "\ufffd", "a", "\u4f60"])
def test_a_window_never_decodes_more_than_its_bound(text: str) -> None:
    lengths: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        lengths.append(len(ids))
        return text * len(ids)

    stream = WindowStream(decode, iter(range(10_000)))
    pieces = [stream.push(token_id) for token_id in range(1000)] + [stream.flush()]

    assert "".join(pieces) == text * 1000
    assert max(lengths) <= 16


def test_a_word_end_marker_becomes_the_space_before_the_next_word() -> None:
    tokenizer = word_end()
    ids = tokenizer.encode("hello hello")

    assert [text for text, _ in push_all(tokenizer.detokenizer(ids), ids)] == [" hello", " hello"]


def test_detokenizers_of_one_tokenizer_do_not_share_state() -> None:
    tokenizer = byte_level()
    incomplete = tokenizer.encode("\u4f61")[:1]
    first, second = tokenizer.detokenizer([]), tokenizer.detokenizer([])
    push_all(first, incomplete)

    assert push_all(second, tokenizer.encode("he")) == [("he", "he")]
    assert first.flush() == "\ufffd"
