"""`tokenizer.json` and tokenizer configuration rebuilt from the metadata of a GGUF file.

Formats: the `tokenizer.*` keys of the GGUF specification (ggml-org/ggml, `docs/gguf.md`), and the serialised form of
the `tokenizers` library. What a missing key means is llama.cpp's rule (`src/llama-vocab.cpp`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ranvier.errors import ModelError
from ranvier.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer

_MODELS = ("gpt2", "llama")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "\u2581"

_END_SPELLINGS = frozenset(
    {
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
        *("<end_of_turn>", "<end_of_utterance>", "<EOT>", "_<EOT>", "[EOT]"),
    }
)
"""Tokens that end a turn or a text whatever the file's keys say; many files name only one of a model's several."""

_PHI_3_NAMES = ("phi-3", "phi3")

_LLAMA_IDS = {"bos": 1, "eos": 2, "unknown": 0}
"""Ids that a `llama` vocabulary has where the file names none."""

T = TypeVar("T")


def tokenizer_json_from_gguf(metadata: Mapping[str, object]) -> str:
    """Text of the `tokenizer.json` for the tokenizer in `metadata` (GGUF keys to plain Python values).

    Knows `tokenizer.ggml.model` `gpt2` (byte-level BPE) and `llama` (SentencePiece with byte fallback; Gemma too).
    Raises ModelError if a key is missing or malformed, or names a model or pre-tokenizer that is not supported.
    """
    vocabulary = _Vocabulary.read(metadata)
    parts = _byte_level(vocabulary) if vocabulary.model == "gpt2" else _sentencepiece(vocabulary)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(vocabulary.added_tokens()),
        "post_processor": _template(vocabulary),
        **parts,
    }
    return json.dumps(document, ensure_ascii=False)


def tokenizer_config_from_gguf(metadata: Mapping[str, object]) -> dict[str, object]:
    """What `tokenizer_config.json` would say: `bos_token`, `eos_token`, `chat_template`, `add_bos_token`.

    The first three only where the file has them; several templates are a list of `name` and `template`. Raises
    ModelError as `tokenizer_json_from_gguf` does.
    """
    vocabulary = _Vocabulary.read(metadata)
    config: dict[str, object] = {
        "bos_token": vocabulary.token("bos"),
        "eos_token": vocabulary.token("eos"),
        "chat_template": _chat_template(metadata),
    }
    present = {key: value for key, value in config.items() if value is not None}
    return present | {"add_bos_token": vocabulary.adds_bos}


def end_token_ids_from_gguf(metadata: Mapping[str, object]) -> list[int]:
    """Every id that ends a generation, sorted: the ids that the file names, and tokens known to be such.

    Raises ModelError as `tokenizer_json_from_gguf` does.
    """
    return sorted(_Vocabulary.read(metadata).end_ids())


def _chat_template(metadata: Mapping[str, object]) -> object:
    template = _optional(metadata, "tokenizer.chat_template", str)
    if "tokenizer.chat_templates" not in metadata:
        return template
    named = {
        name: _required(metadata, f"tokenizer.chat_template.{name}", str)
        for name in _list(metadata, "tokenizer.chat_templates", str)
    }
    if template is not None:
        named["default"] = template
    return [{"name": name, "template": text} for name, text in named.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vocabulary:
    """The `tokenizer.*` entries of one file, checked."""

    metadata: Mapping[str, object]
    model: str
    tokens: Sequence[str]
    types: Sequence[int]

    @classmethod
    def read(cls, metadata: Mapping[str, object]) -> _Vocabulary:
        model = _required(metadata, "tokenizer.ggml.model", str)
        if model not in _MODELS:
            raise ModelError(
                f"`tokenizer.ggml.model` is {model!r}; supported: {', '.join(_MODELS)}."
                " Put the model's `tokenizer.json` beside the file"
            )
        tokens = _list(metadata, "tokenizer.ggml.tokens", str)
        types: Sequence[int] = [_NORMAL] * len(tokens)
        if "tokenizer.ggml.token_type" in metadata:
            types = _list(metadata, "tokenizer.ggml.token_type", int, length=len(tokens))
        if model == "llama":
            tokens = _with_plain_spaces(tokens, types)
        return cls(metadata=metadata, model=model, tokens=tokens, types=types)

    @property
    def pre_tokenizer(self) -> PreTokenizer:
        name = _optional(self.metadata, "tokenizer.ggml.pre", str) or "default"
        if name not in PRE_TOKENIZERS:
            raise ModelError(
                f"`tokenizer.ggml.pre` is {name!r}; supported: {', '.join(PRE_TOKENIZERS)}."
                " Put the model's `tokenizer.json` beside the file"
            )
        return PRE_TOKENIZERS[name]

    @property
    def adds_bos(self) -> bool:
        default = self.model == "llama" or self.pre_tokenizer.add_bos
        return self._flag("add_bos_token", default=default)

    @property
    def adds_eos(self) -> bool:
        return self._flag("add_eos_token", default=False)

    @property
    def adds_space_prefix(self) -> bool:
        return self._flag("add_space_prefix", default=self.model == "llama")

    def id_of(self, role: str) -> int | None:
        """Id of the `bos`, `eos`, `eot`, `eom` or `unknown` token; None if there is none."""
        key = f"tokenizer.ggml.{role}_token_id"
        default = _LLAMA_IDS.get(role) if self.model == "llama" else None
        token_id = _optional(self.metadata, key, int)
        if token_id is not None and not 0 <= token_id < len(self.tokens):
            raise ModelError(f"`{key}` must be >= 0 and < {len(self.tokens)}. Given: {token_id}. The file is damaged")
        return default if token_id is None else token_id

    def token(self, role: str) -> str | None:
        """Spelling of the token with this role; None if there is none."""
        token_id = self.id_of(role)
        return None if token_id is None else self.tokens[token_id]

    def ids(self) -> dict[str, int]:
        """Id of each token."""
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def added_tokens(self) -> Iterator[dict[str, Any]]:
        """Tokens found in the text before anything else: control, unknown, user-defined, and those ending a text."""
        # Some files type their end tokens as normal; as text they would then show up in the output.
        always = self.end_ids() | {self.id_of("bos")}
        rstrip = self._eats_spaces()
        for token_id, (token, token_type) in enumerate(zip(self.tokens, self.types, strict=True)):
            special = token_type in (_CONTROL, _UNKNOWN) or token_id in always
            if special or token_type == _USER_DEFINED:
                yield _added_token(token_id, token, special, token_id in rstrip)

    def end_ids(self) -> set[int]:
        """Ids after which nothing is generated."""
        named = {self.id_of(role) for role in ("eos", "eot", "eom")} - {None}
        spelled = {token_id for token_id, token in enumerate(self.tokens) if token in _END_SPELLINGS}
        return spelled | {token_id for token_id in named if token_id is not None}

    def _eats_spaces(self) -> frozenset[int]:
        """Ids of tokens that swallow white space after them: files have no key for it, and only Phi-3's do."""
        name = str(self.metadata.get("general.name", "")).lower()
        if self.model != "llama" or not any(part in name for part in _PHI_3_NAMES):
            return frozenset()
        keep = ("<unk>", "<s>", "<|endoftext|>")
        return frozenset(
            token_id
            for token_id, (token, token_type) in enumerate(zip(self.tokens, self.types, strict=True))
            if token_type in (_CONTROL, _USER_DEFINED) and token not in keep
        )

    def _flag(self, name: str, *, default: bool) -> bool:
        value = _optional(self.metadata, f"tokenizer.ggml.{name}", bool)
        return default if value is None else value


def _added_token(token_id: int, token: str, special: bool, rstrip: bool) -> dict[str, Any]:
    switches = {**dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False), "rstrip": rstrip}
    return {"id": token_id, "content": token, "special": special, **switches}


def _with_plain_spaces(tokens: Sequence[str], types: Sequence[int]) -> list[str]:
    """User-defined tokens as they stand in a text: older converters left SentencePiece's mark for a space in them.

    They are found before anything else, when the text still has spaces.
    """
    known = set(tokens)
    return [
        plain if token_type == _USER_DEFINED and (plain := token.replace(_SPACE, " ")) not in known else token
        for token, token_type in zip(tokens, types, strict=True)
    ]


def _byte_level(vocabulary: _Vocabulary) -> dict[str, Any]:
    ids = vocabulary.ids()
    pre = vocabulary.pre_tokenizer
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    steps = [*map(_split, pre.expressions), byte_level, *map(_split, pre.byte_expressions)]
    return {
        "normalizer": {"type": "NFC"} if pre.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": byte_level,
        "model": _bpe(ids, list(_written_merges(vocabulary, ids)), ignore_merges=pre.ignore_merges),
    }


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def _sentencepiece(vocabulary: _Vocabulary) -> dict[str, Any]:
    prefix = vocabulary.adds_space_prefix
    normalizers: list[dict[str, Any]] = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    switches = {"unk_token": vocabulary.token("unknown"), "fuse_unk": True, "byte_fallback": True}
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(vocabulary.ids(), _scored_merges(vocabulary), **switches),
    }


def _bpe(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], **switches: Any) -> dict[str, Any]:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return model | switches | {"vocab": ids, "merges": merges}


def _written_merges(vocabulary: _Vocabulary, ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The file's merges, most wanted first; those of tokens that the vocabulary lacks could never apply."""
    for merge in _list(vocabulary.metadata, "tokenizer.ggml.merges", str):
        # The space that separates comes after at least one character, which may itself be a space.
        cut = merge.find(" ", 1)
        if cut < 0:
            raise ModelError(f"`tokenizer.ggml.merges` holds {merge!r}, not two tokens with a space between")
        left, right = merge[:cut], merge[cut + 1 :]
        if left in ids and right in ids and left + right in ids:
            yield left, right


def _scored_merges(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, by falling score of the token.

    SentencePiece's BPE always joins the pair whose result scores highest; this order makes merges do the same.
    """
    tokens, types = vocabulary.tokens, vocabulary.types
    scores = _list(vocabulary.metadata, "tokenizer.ggml.scores", float, length=len(tokens))
    normal = {token: token_id for token_id, token in enumerate(tokens) if types[token_id] == _NORMAL}
    ranked = sorted(normal, key=lambda token: (-scores[normal[token]], normal[token]))
    return [split for token in ranked for split in _splits(token, normal)]


def _splits(token: str, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Cuts of `token` into two tokens, those with the earliest ids first."""
    cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
    return sorted(
        ((left, right) for left, right in cuts if left in ids and right in ids),
        key=lambda split: (ids[split[0]], ids[split[1]]),
    )


def _template(vocabulary: _Vocabulary) -> dict[str, Any] | None:
    """Post-processor that puts BOS and EOS around a text where the file asks for them."""
    before = ["bos"] if vocabulary.adds_bos else []
    after = ["eos"] if vocabulary.adds_eos else []
    if not before + after:
        return None
    tokens = {role: _special_token(vocabulary, role) for role in before + after}

    def pattern(sequence: str, type_id: int) -> list[dict[str, Any]]:
        first, last = (
            [{"SpecialToken": {"id": tokens[role]["id"], "type_id": type_id}} for role in roles]
            for roles in (before, after)
        )
        return [*first, {"Sequence": {"id": sequence, "type_id": type_id}}, *last]

    return {
        "type": "TemplateProcessing",
        "single": pattern("A", 0),
        "pair": pattern("A", 0) + pattern("B", 1),
        "special_tokens": {token["id"]: token for token in tokens.values()},
    }


def _special_token(vocabulary: _Vocabulary, role: str) -> dict[str, Any]:
    token_id = vocabulary.id_of(role)
    if token_id is None:
        raise ModelError(f"`tokenizer.ggml.add_{role}_token` is set but `tokenizer.ggml.{role}_token_id` is missing")
    token = vocabulary.tokens[token_id]
    return {"id": token, "ids": [token_id], "tokens": [token]}


def _optional(metadata: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    value = metadata.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise ModelError(f"`{key}` must be {kind.__name__}. Given: {type(value).__name__}. The file is damaged")


def _required(metadata: Mapping[str, object], key: str, kind: type[T]) -> T:
    value = _optional(metadata, key, kind)
    if value is None:
        raise ModelError(f"`{key}` is missing: the file holds no tokenizer; put `tokenizer.json` beside it")
    return value


def _list(metadata: Mapping[str, object], key: str, kind: type[T], *, length: int | None = None) -> list[T]:
    values = _required(metadata, key, list)
    if not all(isinstance(value, kind) for value in values):
        raise ModelError(f"`{key}` must hold only {kind.__name__}. The file is damaged")
    if length is not None and len(values) != length:
        raise ModelError(f"`{key}` must have {length} entries, one for each token. Given: {len(values)}")
    return values
