"""The load: closed loop, every request with a prompt of its own, fixed lengths."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`num_clients` at once, each sending `num_requests` one after the other."""

    num_clients: int
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int

    @property
    def num_tokens(self) -> int:
        """Output tokens of all requests."""
        return self.num_clients * self.num_requests * self.num_output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of a load. Seconds; `ttft_s` and `tpot_s` are medians over requests, 0 where they are not taken."""

    tokens_per_s: float
    ttft_s: float
    tpot_s: float


_WORDS = (
    "the river a stone light under morning every letter paper window children between mountain carries"
    " old song quiet market seven winter road answer bright wood engine field salt memory garden north"
).split()


def prompt_text(seed: int, num_words: int) -> str:
    """Words drawn by a seeded generator; at least one token each."""
    source = random.Random(seed)
    return " ".join(source.choice(_WORDS) for _ in range(num_words))
