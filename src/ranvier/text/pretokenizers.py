"""How byte-level tokenizers cut text into words before merging, by the name GGUF gives it (`tokenizer.ggml.pre`).

The names and expressions are facts of the GGUF format as llama.cpp defines it (`src/llama-vocab.cpp`), written as in
the `tokenizer.json` files of the models where llama.cpp had to adapt them to its own regex engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}{_CASED_TAIL}"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}{_CASED_TAIL}"
)
_DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _SPACES
)
_CJK_V3 = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_CJK_CODER = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """Expressions applied one after the other, each cutting what the ones before left whole.

    `byte_expressions` follow once bytes are spelled as characters; some of those count as digits (`\u00bc` is byte BC).
    `ignore_merges`: a word that is itself a token is taken as it is. `add_bos`: what a file without
    `tokenizer.ggml.add_bos_token` means. `nfc`: text is normalised to NFC first.
    """

    expressions: tuple[str, ...]
    byte_expressions: tuple[str, ...] = ()
    ignore_merges: bool = False
    add_bos: bool = False
    nfc: bool = False


_DEFAULT = PreTokenizer(expressions=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_FALCON = PreTokenizer(expressions=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2), byte_expressions=(r"\p{N}+", "[0-9][0-9][0-9]"))
_WORDS = PreTokenizer(expressions=(_GPT2,))
_WORDS_AND_DIGITS = PreTokenizer(expressions=(r"\p{N}", _GPT2))
_LLAMA_3 = PreTokenizer(expressions=(_LLAMA3,), ignore_merges=True, add_bos=True)
_LLAMA_3_MERGED = PreTokenizer(expressions=(_LLAMA3,))
_QWEN_2 = PreTokenizer(expressions=(_QWEN2,), nfc=True)
_GPT_4O = PreTokenizer(expressions=(_GPT4O,))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "chatglm-bpe": _LLAMA_3_MERGED,
        "command-r": _WORDS_AND_DIGITS,
        "dbrx": _LLAMA_3_MERGED,
        "deepseek-coder": PreTokenizer(expressions=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_CODER, r"\p{N}")),
        "deepseek-r1-qwen": PreTokenizer(expressions=(_QWEN2,)),
        "deepseek-v3": PreTokenizer(expressions=(r"\p{N}{1,3}", _CJK_V3, _DEEPSEEK_V3)),
        "default": _DEFAULT,
        "exaone": _WORDS_AND_DIGITS,
        "falcon": _FALCON,
        "falcon3": _LLAMA_3,
        "glm4": _LLAMA_3_MERGED,
        "gpt-2": _WORDS,
        "gpt-4o": _GPT_4O,
        "llama-bpe": _LLAMA_3,
        "llama-v3": _LLAMA_3,
        "llama3": _LLAMA_3,
        "llama4": _GPT_4O,
        "mpt": _WORDS,
        "olmo": _WORDS,
        "phi-2": _WORDS,
        "pixtral": _LLAMA_3,
        "qwen2": _QWEN_2,
        "qwen35": PreTokenizer(expressions=(_QWEN35,), nfc=True),
        "refact": _WORDS_AND_DIGITS,
        "smaug-bpe": _LLAMA_3_MERGED,
        "smollm": _WORDS_AND_DIGITS,
        "starcoder": _WORDS_AND_DIGITS,
        "tekken": PreTokenizer(expressions=(_TEKKEN,), ignore_merges=True, add_bos=True),
    }
)
