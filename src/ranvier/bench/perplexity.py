"""Perplexity on the text that ships with the package, through the scoring path that requests take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ranvier.core import Chunk, StepPlan
from ranvier.targets import Programs
from ranvier.text import Tokenizer

WINDOW = 512
"""Tokens that see each other."""
_STEP = 128
"""Tokens in one step: a row of logits as wide as the vocabulary is held for each."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The exponential of the mean negative log-probability (natural logarithm) of `num_tokens` tokens."""

    value: float
    num_tokens: int


def prose() -> str:
    """Seven short pieces of plain English, some 3,600 words, written for this purpose and published nowhere else."""
    return Path(__file__).with_name("prose.txt").read_text(encoding="utf-8")


def windows(tokenizer: Tokenizer, text: str, length: int = WINDOW) -> list[list[int]]:
    """The text's tokens cut into pieces of `length`, each with what the tokenizer puts in front of a text.

    A last piece of under two tokens is left out: nothing in it could be scored.
    """
    prefix = tokenizer.encode("")
    ids = tokenizer.encode(text, add_special_tokens=False)
    step = length - len(prefix)
    pieces = [prefix + ids[first : first + step] for first in range(0, len(ids), step)]
    return [piece for piece in pieces if len(piece) > 1]


def perplexity(programs: Programs, pieces: Sequence[Sequence[int]]) -> Perplexity:
    """Score every token of each piece but its first, in slot 0."""
    total, count = 0.0, 0
    for piece in pieces:
        for start in range(0, len(piece) - 1, _STEP):
            end = min(start + _STEP, len(piece) - 1)
            chunk = Chunk(0, piece[start:end], start, wants_logits=False, scored_ids=piece[start + 1 : end + 1])
            scores = programs.run(StepPlan((chunk,), (), ())).scores[0]
            total += math.fsum(scores)
            count += len(scores)
    return Perplexity(math.exp(-total / count), count)
