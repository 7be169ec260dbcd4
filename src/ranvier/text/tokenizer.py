"""A tokenizer read from `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path

import tokenizers

from ranvier.errors import ModelError, ValidationError
from ranvier.text.detokenizer import Detokenizer, PieceStream, TextStream, WindowStream
from ranvier.text.pieces import Pieces, pieces_from_decoder


class Tokenizer:
    """Text to token ids and back. Stateless from outside: one instance serves every request and thread."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        # A file may ask for both; a server has its own limits and never pads here.
        library.no_truncation()
        library.no_padding()
        self._library = library
        added = library.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._pieces = _pieces(library)

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json` file. Raises ModelError if it is missing or damaged."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ModelError(_missing(path)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(_damaged(str(path), error)) from error
        return cls._parse(text, str(path))

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Read the text of a `tokenizer.json`. Raises ModelError if it is damaged."""
        return cls._parse(text, "the tokenizer given as JSON text")

    @classmethod
    def _parse(cls, text: str, source: str) -> Tokenizer:
        try:
            library = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise ModelError(_damaged(source, error)) from error
        return cls(library)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. A model may have more rows than this."""
        return self._library.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Raises ValidationError if the text cannot be encoded (a lone surrogate)."""
        return list(self._encode(text, add_special_tokens).ids)

    def encode_with_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[tuple[int, int, int]]:
        """`(token_id, start, stop)` for each token of `text`; start and stop are byte positions in its UTF-8.

        Tokens that share a character all span it whole; special tokens put in have `0, 0`. Raises ValidationError as
        `encode` does.
        """
        encoding = self._encode(text, add_special_tokens)
        byte_at = _byte_positions(text)
        return [
            (token_id, byte_at[start], byte_at[stop])
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of `ids` as a whole; ids that are not in the vocabulary are left out."""
        return self._library.decode(ids, skip_special_tokens=skip_special_tokens)

    def is_special(self, token_id: int) -> bool:
        """Whether `token_id` is an added token flagged special (BOS, EOS, chat markers)."""
        return token_id in self._special_ids

    def token_id(self, text: str) -> int | None:
        """Id of the token spelled exactly `text` in the vocabulary, or None."""
        return self._library.token_to_id(text)

    def detokenizer(self, prompt_ids: Sequence[int]) -> Detokenizer:
        """A fresh incremental detokenizer for what is generated after `prompt_ids`."""
        context = (token_id for token_id in reversed(prompt_ids) if token_id not in self._special_ids)
        stream: TextStream
        if self._pieces is None:
            stream = WindowStream(self._decode_kept, context)
        else:
            stream = PieceStream(self._pieces, context)
        return Detokenizer(stream, self._special_ids.__contains__, self._decode_kept)

    def _decode_kept(self, ids: Sequence[int]) -> str:
        return self._library.decode(ids, skip_special_tokens=False)

    def _encode(self, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        try:
            # Not `encode`: it keeps Python's lock, and all threads would wait for a long text.
            return self._library.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        except Exception as error:  # the library raises plain Exception, and TypeError for a lone surrogate
            raise ValidationError(f"tokenizer error {error}") from error


def _pieces(library: tokenizers.Tokenizer) -> Pieces | None:
    decoder = library.decoder
    return None if decoder is None else pieces_from_decoder(decoder.__getstate__(), library.id_to_token)


def _byte_positions(text: str) -> Sequence[int]:
    """Position in UTF-8 of each character's first byte, and of the end."""
    if text.isascii():
        return range(len(text) + 1)
    return list(accumulate(chain((0,), (len(character.encode()) for character in text))))


def _missing(path: Path) -> str:
    if path.with_name("tokenizer.model").is_file():
        hint = "only `tokenizer.model` lies beside it; load it once with `transformers` and save the fast tokenizer"
    else:
        hint = "download it with the model or copy it from the original checkpoint"
    return f"{path} does not exist: `tokenizer.json` is needed to serve this model; {hint}"


def _damaged(source: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{source} is not a readable `tokenizer.json`: {reason}; a complete `tokenizer.json` is needed"
