"""Token ids to text while they arrive.

`tokenizers.decoders.DecodeStream` is not used: it decodes everything it holds back again with each token, so a run of
invalid UTF-8 costs quadratic time, what it holds cannot be had at the end of a generation, and it raises when a
decoder takes text back. Where the bytes of a token do not depend on its neighbours (`ranvier.text.pieces`) one
incremental UTF-8 decoder gives the same text in constant time; the rest is a bounded window.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from ranvier.text.pieces import Pieces

_CONTEXT_TOKENS = 8
"""Prompt tokens that a window starts with: enough to be inside a text, not at its start."""

_MAX_HELD_TOKENS = 8
"""A window holds back no more tokens than this."""

_MAX_CHARACTER_BYTES = 4

_REPLACEMENT = "\ufffd"

DecodeIds = Callable[[Sequence[int]], str]
"""Decode token ids, special tokens kept."""


class TextStream(Protocol):
    """Turns the ordinary (not special) tokens of one generation into text."""

    def push(self, token_id: int) -> str:
        """Text that this token makes final; `""` while a character is incomplete."""

    def flush(self) -> str:
        """Text held back, incomplete characters as U+FFFD; nothing is held afterwards."""


class PieceStream:
    """Text of tokens whose bytes do not depend on each other.

    Invalid UTF-8 becomes one U+FFFD for each maximal subpart (Unicode 16, 3.9), as in `tokenizers`.
    """

    def __init__(self, pieces: Pieces, prompt_ids: Iterable[int]) -> None:
        """Start after the ordinary tokens `prompt_ids`, last first: text before means no leading space to strip."""
        self._pieces = pieces
        self._held = b""
        self._strip = pieces.strip
        if self._strip and any(pieces[token_id] for token_id in prompt_ids):
            self._strip = 0

    def push(self, token_id: int) -> str:
        """Text that this token makes final."""
        data = self._held + self._pieces[token_id]
        text, used = utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return self._without_leading(text) if self._strip else text

    def flush(self) -> str:
        """U+FFFD if a character is incomplete, else `""`."""
        text = self._held.decode("utf-8", "replace")
        self._held = b""
        return text

    def _without_leading(self, text: str) -> str:
        while self._strip and text.startswith(self._pieces.strip_character):
            text = text[1:]
            self._strip -= 1
        if text:
            self._strip = 0
        return text


class WindowStream:
    """Text of tokens under any other decoder: the last tokens are decoded with and without the new one."""

    def __init__(self, decode: DecodeIds, prompt_ids: Iterable[int]) -> None:
        """Start after the ordinary tokens `prompt_ids`, last first."""
        self._decode = decode
        self._ids = _clean_start(list(islice(prompt_ids, _CONTEXT_TOKENS))[::-1], decode)
        self._known = len(self._ids)
        self._known_text = decode(self._ids)

    def push(self, token_id: int) -> str:
        """Text that this token makes final."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        added = text[len(self._known_text) :]
        full = len(self._ids) - self._known >= _MAX_HELD_TOKENS
        if not full and (not added or added.endswith(_REPLACEMENT)):
            return ""
        self._advance()
        return added

    def flush(self) -> str:
        """Text of the tokens held back."""
        text = self._decode(self._ids)[len(self._known_text) :]
        self._advance()
        return text

    def _advance(self) -> None:
        # With nothing held the old context stays: an empty one would look like the start of a text.
        if len(self._ids) > self._known:
            self._ids = self._ids[self._known :]
            self._known = len(self._ids)
            self._known_text = self._decode(self._ids)


def _clean_start(ids: list[int], decode: DecodeIds) -> list[int]:
    """`ids` without the first few if they are the rest of a character cut in two, which would spoil what follows."""
    starts = (ids[skipped:] for skipped in range(_MAX_CHARACTER_BYTES))
    return next((start for start in starts if _REPLACEMENT not in decode(start)), ids)


class Detokenizer:
    """Text of one generation, token by token. Made by `Tokenizer.detokenizer`.

    The visible texts joined, then `flush()`, are `generated_text`. That equals
    `Tokenizer.decode(generated_ids, skip_special_tokens=True)` for byte-level tokenizers, and the decoded prompt and
    generation minus the decoded prompt for the others (so a word after the prompt keeps its space) as long as the
    tokens form valid UTF-8.
    """

    def __init__(self, stream: TextStream, is_special: Callable[[int], bool], decode: DecodeIds) -> None:
        self._stream = stream
        self._is_special = is_special
        self._decode = decode
        self._visible: list[str] = []

    def push(self, token_id: int) -> tuple[str, str]:
        """Add one generated token; return its `(token_text, visible_text)`.

        `token_text` keeps special tokens; `visible_text` has `""` for them. Both are `""` while a UTF-8 character is
        incomplete; the token that completes it carries it whole. A special token does not complete or break it.
        """
        if self._is_special(token_id):
            return self._decode([token_id]), ""
        text = self._stream.push(token_id)
        if text:
            self._visible.append(text)
        return text, text

    def flush(self) -> str:
        """Return what is still held back, an incomplete character as U+FFFD. Call once, after the last token."""
        text = self._stream.flush()
        self._visible.append(text)
        return text

    @property
    def generated_text(self) -> str:
        """All visible text so far; complete after `flush()`."""
        return "".join(self._visible)
