"""What a grammar allows next, for one request."""

from __future__ import annotations

import re

from llguidance import LLMatcher

from ranvier.errors import GenerationError
from ranvier.grammar.refusals import one_line

_DUMP = re.compile(r"<(?:non-verbose|state|backtrace)\b")
"""Where the reason ends, and the library's state or the stack of a panic begins."""


class Constraint:
    """The state of one output within its grammar. Made by `GrammarCompiler`; one owner, one thread at a time.

    Both methods let other threads run while llguidance works, which takes microseconds, at worst 0.2 s.
    """

    def __init__(self, matcher: LLMatcher, end_ids: frozenset[int], *, hides_end: bool) -> None:
        """`hides_end`: the end tokens are the library's alone and stay out of masks."""
        self._matcher = matcher
        self._end_ids = end_ids
        self._hides_end = hides_end
        self._allowed: bytes | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the output is whole: no token but an end token may follow. May work out the next mask."""
        if self._matcher.is_error():
            return False
        if self._matcher.is_stopped():
            return True
        try:
            # The library stops only where the text can go on in no way; here and there it can, but never to an end.
            return not any(_without(self.allowed(), self._end_ids))
        except GenerationError:
            return False

    def allowed(self) -> bytes:
        """Which tokens may come next: token t may where bit t % 8 of byte t // 8 is set; ids beyond the end may not.

        End tokens are among them where the output may end. Raises GenerationError if the grammar cannot go on within
        its limits.
        """
        if self._allowed is None:
            mask = self._matcher.compute_bitmask()
            self._check()
            self._allowed = _without(mask, self._end_ids) if self._hides_end else mask
        return self._allowed

    def accept(self, token_id: int) -> None:
        """The token was chosen. Raises GenerationError if it was not allowed, and after any error.

        An end token may be accepted again and again.
        """
        self._allowed = None
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            self._allowed = None
            raise GenerationError(f"the grammar cannot go on: {library_reason(self._matcher)}; make it simpler")


def library_reason(matcher: LLMatcher) -> str:
    """The library's own words for the error that `matcher` is in, on one short line."""
    return one_line(_DUMP.split(matcher.get_error())[0])


def _without(mask: bytes, ids: frozenset[int]) -> bytes:
    bits = bytearray(mask)
    for token_id in ids:
        bits[token_id // 8] &= ~(1 << token_id % 8)
    return bytes(bits)
