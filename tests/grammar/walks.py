"""Random outputs of a grammar: what a model without any sense would write.

Tokenizer of `serving`: byte b is token b, 256 is the end token, 257 is special, 258 spells `one. two`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

import numpy as np

from ranvier.grammar import Constraint, GrammarCompiler
from serving import END, ONE_TWO, tokenizer_file

MAX_STEPS = 1_500
_QUOTE = frozenset(b'"')
_CLOSING = frozenset(b"}]0")
_NOTHING: frozenset[int] = frozenset()
_PLAIN = frozenset(range(0x20, 0x7F))


@functools.cache
def compiler() -> GrammarCompiler:
    """Over the tokenizer above."""
    return GrammarCompiler(tokenizer_file(), eos_token_ids=frozenset({END}))


def allowed_ids(constraint: Constraint) -> list[int]:
    bits = np.unpackbits(np.frombuffer(constraint.allowed(), np.uint8), bitorder="little")
    return [int(token_id) for token_id in np.flatnonzero(bits)]


def text_of_bytes(ids: Sequence[int]) -> str:
    """Raises UnicodeDecodeError if it is no UTF-8."""
    return b"".join(b"one. two" if token_id == ONE_TWO else bytes([token_id]) for token_id in ids).decode()


def walk(
    constraint: Constraint,
    seed: int,
    *,
    end_ids: frozenset[int] = frozenset({END}),
    pick: Callable[[random.Random, list[int], int], int] | None = None,
    max_steps: int = MAX_STEPS,
) -> list[int] | None:
    """The tokens of one output without the end token, or None if it was not whole after `max_steps`."""
    rng = random.Random(seed)
    ids: list[int] = []
    for step in range(max_steps):
        allowed = allowed_ids(constraint)
        assert allowed
        may_end = end_ids.intersection(allowed)
        assert constraint.is_complete == end_ids.issuperset(allowed)
        if may_end and (len(may_end) == len(allowed) or rng.random() < 0.3):
            return ids
        chosen = (pick or pick_byte)(rng, [token_id for token_id in allowed if token_id not in end_ids], step)
        constraint.accept(chosen)
        ids.append(chosen)
    return None


def pick_byte(rng: random.Random, allowed: list[int], step: int) -> int:
    """Any byte at first, mostly printable; soon the quote that closes a string, a bracket outside one, a zero."""
    closing = _QUOTE.intersection(allowed) or (_CLOSING.intersection(allowed) if len(allowed) < 60 else _NOTHING)
    if closing and rng.random() < step / 60:
        return rng.choice(sorted(closing))
    plain = [token_id for token_id in allowed if token_id in _PLAIN]
    return rng.choice(plain if plain and rng.random() < 0.9 else allowed)


def matches(constraint: Constraint, text: str) -> bool:
    """Whether the grammar allows `text`, byte by byte, and then the end."""
    for byte in text.encode():
        if byte not in allowed_ids(constraint):
            return False
        constraint.accept(byte)
    return END in allowed_ids(constraint)
