"""Tokenizers of every kind, small enough to read, built by code."""

from __future__ import annotations

from functools import cache

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from ranvier.text import Tokenizer

SPACE = "\u2581"
LETTERS = "abcdehlorw\u00e9.!"


def library_tokenizer(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of the library inside, as the reference."""
    return tokenizer._library


def special_ids(tokenizer: Tokenizer) -> list[int]:
    return [token_id for token_id in range(tokenizer.vocab_size) if tokenizer.is_special(token_id)]


def _finish(library: tokenizers.Tokenizer, special: list[str], added: list[str]) -> Tokenizer:
    library.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    library.add_tokens([AddedToken(token, normalized=False) for token in added])
    return Tokenizer.from_json(library.to_str())


@cache
def byte_level() -> Tokenizer:
    """Byte-level BPE; ids 0-255 are the alphabet, then merges that end inside UTF-8 characters, then added tokens."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    # F0 9F starts an emoji, F0 9F 91 most faces; E4 BD and E2 80 start a Chinese character and the joiner.
    merges = [("ð", "Ł"), ("ðŁ", "ĳ"), ("ä", "½"), ("â", "Ģ"), ("h", "e"), ("Ġ", "w"), ("Ġ", "Ġ"), ("!", "ð")]
    tokens += [left + right for left, right in merges]
    library = tokenizers.Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return _finish(library, ["<|im_start|>", "<|im_end|>"], ["<tool>", "\u4f60\u597d", "\u00e9\u4f60", "   "])


def _sentencepiece(*, prefix: bool) -> Tokenizer:
    words = [f"{SPACE}he", f"{SPACE}hello", "he", "ll", "llo", "or", f"{SPACE}w", f"{SPACE}wor", SPACE * 2]
    merges = [
        ("h", "e"),
        ("l", "l"),
        ("ll", "o"),
        (SPACE, "he"),
        (f"{SPACE}he", "llo"),
        ("o", "r"),
        (SPACE, "w"),
        (f"{SPACE}w", "or"),
        (SPACE, SPACE),
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *LETTERS, *words]
    vocabulary = {token: n for n, token in enumerate(tokens)}
    library = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", SPACE)
    library.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefix else replace
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return _finish(library, ["<unk>", "<s>", "</s>"], ["<tool>"])


@cache
def llama_style() -> Tokenizer:
    """SentencePiece BPE with byte fallback; one leading space is put before a text and stripped again."""
    return _sentencepiece(prefix=True)


@cache
def gemma_style() -> Tokenizer:
    """The same without the leading space."""
    return _sentencepiece(prefix=False)


def _unigram(*, byte_fallback: bool) -> tokenizers.Tokenizer:
    words = [f"{SPACE}hello", f"{SPACE}wor", "llo", "he", f"{SPACE}he"]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), (SPACE, -3.0)]
    pieces += [(letter, -4.0) for letter in LETTERS] + [(word, -2.0) for word in words]
    if byte_fallback:
        pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    library = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    return library


@cache
def unigram() -> Tokenizer:
    """Unigram with the metaspace decoder, as T5."""
    library = _unigram(byte_fallback=False)
    library.decoder = decoders.Metaspace()
    return _finish(library, ["<unk>", "</s>"], ["<tool>"])


@cache
def unigram_with_bytes() -> Tokenizer:
    """Unigram with byte fallback before the metaspace decoder."""
    library = _unigram(byte_fallback=True)
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _finish(library, ["<unk>", "</s>"], ["<tool>"])


@cache
def word_piece() -> Tokenizer:
    """WordPiece, as BERT."""
    tokens = ["[UNK]", "[CLS]", "[SEP]", "hello", "wor", *LETTERS, *(f"##{letter}" for letter in LETTERS), "##llo"]
    model = models.WordPiece(vocab={token: n for n, token in enumerate(tokens)}, unk_token="[UNK]")
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    return _finish(library, ["[UNK]", "[CLS]", "[SEP]"], ["<tool>"])


@cache
def word_end() -> Tokenizer:
    """BPE whose tokens mark the end of a word, as the first GPT."""
    tokens = ["<unk>", "<eos>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "he", "hell", "hello</w>"]
    merges = [("h", "e"), ("he", "l"), ("hel", "l"), ("hell", "o</w>")]
    vocabulary = {token: n for n, token in enumerate([*tokens, "hel"])}
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", end_of_word_suffix="</w>")
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.decoder = decoders.BPEDecoder()
    return _finish(library, ["<unk>", "<eos>"], ["<tool>"])


@cache
def whole_words() -> Tokenizer:
    """No decoder at all: tokens are joined with spaces."""
    tokens = ["<unk>", "<eos>", "hello", "world", "!", "a"]
    library = tokenizers.Tokenizer(models.WordLevel({token: n for n, token in enumerate(tokens)}, "<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    return _finish(library, ["<unk>", "<eos>"], ["<tool>"])


KINDS = {
    "byte_level": byte_level,
    "llama_style": llama_style,
    "gemma_style": gemma_style,
    "unigram": unigram,
    "unigram_with_bytes": unigram_with_bytes,
    "word_piece": word_piece,
    "word_end": word_end,
    "whole_words": whole_words,
}
