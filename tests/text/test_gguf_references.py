"""Tokenizers rebuilt from GGUF metadata against those that the metadata was made from, on odd strings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from ranvier.text import tokenizer_json_from_gguf

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPECIAL, MARKERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), ("<think>", "<tool>")

PROSE = """The quick brown fox doesn't jump over 1234567 lazy dogs, it's said; WE'LL SEE what they've found in 2024.
def encode(text: str, *, limit=10) -> list[int]:
    \"\"\"Ids of `text`.\"\"\"
\treturn [ord(c) ** 2 for c in text if c != '\\n'][:limit]  # 100% of 3.14159
Der Fluß, naïve Café, ½ Ångström, x² + y³. 你好，世界。これはテスト привет мир 😀 emoji 😀 https://example.org/a?b=c&d=1
"""
ODD = [
    *(
        "",
        " ",
        "  ",
        "\n",
        "\n\n\n",
        "\t\tx",
        " lead",
        "trail ",
        "a\r\nb\r\n",
        "A" * 40,
        " " * 17,
        "\n" * 9,
        "\x00\x01\x7f",
    ),
    *("don't I'LL We'Ve o'clock", "hello  world   !", "12345 1 22 333 4444", "3.14159 1,000,000 10^3 $5 `x`", "x²½¼³9"),
    *(
        "def f(x):\n    return x**2  # c",
        "if (a<b) {\n\t\tc++;\n}",
        '{"a": [1, 2.5e-3, null]}',
        "https://a.b/c?d=e&f=%20#g",
    ),
    *("你好，世界！", "これはテスト", "привет мир", "שלום", "المرحبا", "ก็", "한국어", "ＡＢＣ ﬁ", "Ǆ ǅ ǆ İı ẞ"),
    *(
        "naïve e\u0301 \u00e9",
        "a\u0300\u0301\u0302",
        "\u200b\u200d\ufeff",
        "\u00a0nbsp\u2003em\u3000ideographic",
        "\u0661\u0662\u0663",
    ),
    *(
        "😀👨\u200d👩\u200d👧 zz",
        "\U0001f1e9\U0001f1ea",
        "☃️!!",
        f"{SPACE}under",
        "<0x41>",
        "<|im_start|>user\nhi<|im_end|>\n",
    ),
    *("<think> ok </think><tool>", " <|im_end|> x", "<|im_end|><|im_end|>"),
]
TEXT = st.text(alphabet=st.sampled_from(sorted(set("".join([PROSE, *ODD])))), max_size=40) | st.text(max_size=20)

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{TAIL}"
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{TAIL}"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(expression: str) -> Any:
    """As the files of most models since Llama 3 have it."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )


def digits_first() -> Any:
    """SmolLM, StarCoder, Granite."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])


def falcon() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(False),
            pre_tokenizers.Digits(False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )


PUBLISHED: dict[str, Callable[[], Any]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(False),
    "smollm": digits_first,
    "starcoder": digits_first,
    "refact": digits_first,
    "falcon": falcon,
    "qwen2": lambda: split(QWEN2),
    "llama-bpe": lambda: split(LLAMA3),
    "dbrx": lambda: split(LLAMA3),
    "smaug-bpe": lambda: split(LLAMA3),
    "gpt-4o": lambda: split(O200K),
}
"""What the `tokenizer.json` of the models with this pre-tokenizer says: GPT-2, …, OLMo 2, SmolLM3, Phi-4 mini."""


def trained(pre: str) -> tokenizers.Tokenizer:
    """A small tokenizer as a model of that kind would have, trained on `PROSE`."""
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    library.normalizer = normalizers.NFC() if pre == "qwen2" else None  # type: ignore[assignment]  # None clears it
    library.pre_tokenizer = PUBLISHED[pre]()
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        [PROSE],
        trainers.BpeTrainer(vocab_size=420, min_frequency=1, initial_alphabet=alphabet, show_progress=False),
    )
    library.add_special_tokens(list(SPECIAL))
    library.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    return library


def converted(library: tokenizers.Tokenizer, pre: str) -> dict[str, object]:
    """Its metadata as llama.cpp's converter writes it."""
    model = json.loads(library.to_str())["model"]
    count = library.get_vocab_size()
    tokens = [library.id_to_token(token_id) for token_id in range(count)]
    types = [CONTROL if token in SPECIAL else USER_DEFINED if token in MARKERS else NORMAL for token in tokens]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.eos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
    }


Pair = tuple[tokenizers.Tokenizer, tokenizers.Tokenizer]


@pytest.fixture(scope="module", params=list(PUBLISHED))
def pair(request: pytest.FixtureRequest) -> Pair:
    """The tokenizer and what came back of it."""
    library = trained(request.param)
    return library, tokenizers.Tokenizer.from_str(tokenizer_json_from_gguf(converted(library, request.param)))


def test_odd_strings_have_the_ids_of_the_tokenizer_that_was_converted(pair: Pair) -> None:
    library, rebuilt = pair
    for text in [*ODD, PROSE]:
        assert rebuilt.encode(text).ids == library.encode(text).ids, text


@settings(deadline=None)
@given(text=TEXT)
def test_any_text_has_the_ids_of_the_tokenizer_that_was_converted(pair: Pair, text: str) -> None:
    library, rebuilt = pair
    ids = library.encode(text).ids

    assert rebuilt.encode(text).ids == ids
    assert rebuilt.decode(ids, skip_special_tokens=False) == library.decode(ids, skip_special_tokens=False)


RUNS = ["\n\n", "\n", f"{SPACE}{SPACE}", f"{SPACE}{SPACE}{SPACE}", "<start_of_turn>"]
PIECES = [
    *(SPACE, *"abcdefghijklmnopqrstuvwxyz", *"ABC0123456789.,(){}:*#'", "é", "ß", "你", "好", "и", "😀"),
    *(
        "th",
        "he",
        "in",
        "er",
        f"{SPACE}t",
        f"{SPACE}th",
        f"{SPACE}the",
        "the",
        "re",
        "on",
        "ello",
        "lo",
        "ll",
        "llo",
        "he",
    ),
    *(f"{SPACE}a", "et", "ret", "urn", "def", f"{SPACE}f", "12", "34", "你好", "():", f"{SPACE}x", "n't", "1234"),
]
SCORED = list(dict.fromkeys(PIECES))


def sentencepiece_metadata(*, older: bool) -> dict[str, object]:
    """A file like Gemma's; converters used to leave the marks for spaces in user-defined tokens."""
    runs = RUNS if older else [run.replace(SPACE, " ") for run in RUNS]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *SCORED, *runs]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
        + [NORMAL] * len(SCORED)
        + [USER_DEFINED] * len(runs),
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(SCORED))] + [-1000.0] * len(runs),
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
    }


def sentencepiece(text: str) -> list[str]:
    """SentencePiece's BPE, spelled out: user-defined tokens, longest first, then joins by score, then bytes."""
    text = text.replace(" ", SPACE)
    parts: list[tuple[str, bool]] = []
    while text:
        run = max((run for run in RUNS if text.startswith(run)), key=len, default="")
        parts.append((run or text[0], bool(run)))
        text = text[len(run) or 1 :]
    while True:
        ranks = [
            (SCORED.index(a + b), at)
            for at, ((a, fixed), (b, also)) in enumerate(zip(parts, parts[1:], strict=False))
            if not fixed and not also and a + b in SCORED
        ]
        if not ranks:
            break
        at = min(ranks)[1]
        parts[at : at + 2] = [(parts[at][0] + parts[at + 1][0], False)]
    known = (*SCORED, *RUNS)
    return [
        piece
        for part, _ in parts
        for piece in ([part] if part in known else [f"<0x{byte:02X}>" for byte in part.encode()])
    ]


PLAIN = [text for text in ODD if SPACE not in text and "<" not in text]
PLAIN_TEXT = TEXT.filter(lambda text: SPACE not in text and "<" not in text)


def spelled(library: tokenizers.Tokenizer, text: str) -> list[str]:
    return [token.replace(" ", SPACE) for token in library.encode(text).tokens]


@pytest.fixture(scope="module", params=[True, False], ids=["older", "newer"])
def pieces(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tokenizer_json_from_gguf(sentencepiece_metadata(older=request.param)))


def test_odd_strings_have_the_pieces_of_sentencepiece(pieces: tokenizers.Tokenizer) -> None:
    for text in [*PLAIN, "<start_of_turn>  user\n\n\n  the"]:
        assert spelled(pieces, text) == sentencepiece(text), text


@settings(deadline=None)
@given(text=PLAIN_TEXT)
def test_any_text_has_the_pieces_of_sentencepiece(pieces: tokenizers.Tokenizer, text: str) -> None:
    assert spelled(pieces, text) == sentencepiece(text)
    assert pieces.decode(pieces.encode(text).ids, skip_special_tokens=False) == text
