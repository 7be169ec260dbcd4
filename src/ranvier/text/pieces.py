"""The bytes a token adds to the text, for the decoders where that does not depend on the tokens around it.

Two decoders cover nearly every language model and have this property; they are recognised from the `decoder` entry
of `tokenizer.json`:

* byte level (GPT-2, Llama 3, Qwen, SmolLM): each character of a token stands for one byte;
* SentencePiece style (Llama 2, Mistral, Gemma): `▁` stands for a space, `<0xHH>` for one byte, and a few leading
  spaces of the whole text may be stripped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_OF_CHARACTER: Mapping[str, int] = _byte_of_character()
"""Byte value of each of the 256 characters that byte-level tokens are spelled with."""


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a byte-level token; an added token with a character outside the alphabet stands for itself."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return token.encode()


class Pieces:
    """Bytes of each token id, worked out on first use and kept.

    `strip` is how many leading `strip_character` the decoder removes from a whole text (0: none).
    """

    __slots__ = ("_bytes_of", "_known", "_token_of", "strip", "strip_character")

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        bytes_of: Callable[[str], bytes],
        *,
        strip: int = 0,
        strip_character: str = " ",
    ) -> None:
        self._token_of = token_of
        self._bytes_of = bytes_of
        self._known: dict[int, bytes] = {}
        self.strip = strip
        self.strip_character = strip_character

    def __getitem__(self, token_id: int) -> bytes:
        """Bytes of `token_id`; `b""` for an id that the vocabulary does not have, as `decode` skips it."""
        known = self._known.get(token_id)
        if known is None:
            token = self._token_of(token_id)
            known = self._known[token_id] = b"" if token is None else self._bytes_of(token)
        return known


def pieces_from_decoder(decoder_json: bytes, token_of: Callable[[int], str | None]) -> Pieces | None:
    """Pieces for the decoder that `decoder_json` describes; None if its tokens depend on their neighbours."""
    decoder = json.loads(decoder_json)
    steps: list[dict[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Pieces(token_of, byte_level_bytes)
    if kinds in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        return _sentencepiece(steps, token_of)
    return None


def _sentencepiece(steps: Sequence[dict[str, Any]], token_of: Callable[[int], str | None]) -> Pieces | None:
    old, new = steps[0]["pattern"].get("String"), steps[0]["content"]
    strip: dict[str, Any] = steps[3] if len(steps) == 4 else {"start": 0, "stop": 0, "content": " "}
    if old is None or strip["stop"] != 0:
        return None

    def bytes_of(token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else str(token.replace(old, new)).encode()

    return Pieces(token_of, bytes_of, strip=strip["start"], strip_character=strip["content"])
