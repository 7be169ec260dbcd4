"""Stop strings, tested token by token."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Tells after each token whether the text so far ends with a stop string.

    The rule is TGI's: literal and case-sensitive; one newline after the stop string is tolerated; a stop string
    in the middle of a token's text does not stop; `""` stops after one token. The stop string stays in the text.
    Holds no more text than the longest stop string and one character.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._keep = max(map(len, self._stop), default=-1) + 1
        self._tail = ""

    def push(self, visible_text: str) -> bool:
        """Add the visible text of one token (may be `""`); return whether generation should stop after it."""
        if not self._stop:
            return False
        tail = (self._tail + visible_text)[-self._keep :]
        self._tail = tail
        return tail.endswith(self._stop) or (tail.endswith("\n") and tail[:-1].endswith(self._stop))
