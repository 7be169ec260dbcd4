"""The static lengths of an artifact's programs, and which of them a step takes.

For a cache length of 512 the defaults are

| program | buckets | |
| --- | --- | --- |
| prefill | 128 256 512 | a whole prompt, padded up to the bucket |
| chunk | 128 512 | tokens behind others, padded up to the bucket |
| decode | 128 256 512 | how much of the KV cache a decode reads |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ranvier.core import Limits
from ranvier.errors import OptionError

CHUNK_TOKENS = 32
"""Prompts are cut and prefixes are shared in multiples of this many tokens."""
SMALLEST_BUCKET = 128
MAX_SCORED_BUCKET = 128
"""Positions of one program that scores a prompt: each takes a whole row of logits."""
LARGEST_PREFILL = 2048
MAX_CHUNK_SCORES = 2**22
"""Of one attention head: tokens of a chunk times cache length; half a gigabyte with 32 heads on one core."""

Bucket = int


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """Padded lengths in tokens, each list ascending and ending at most at the cache length.

    `prefill` and `chunk` may end before it: longer prompts are put through in pieces. `decode` ends with it. `score`
    is that of the program that scores prompts.
    """

    prefill: tuple[Bucket, ...]
    chunk: tuple[Bucket, ...]
    decode: tuple[Bucket, ...]
    score: Bucket


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `first … first + length - 1` of a chunk, and the bucket they are padded up to."""

    first: int
    length: int
    bucket: Bucket


def cache_length(limits: Limits) -> int:
    """KV rows of a slot: `sequence_length`, rounded up to whole chunks.

    The last row is also where a slot that does not advance writes: no token comes after that position, so what lies
    there is read in the step that wrote it or never.
    """
    return round_up(limits.sequence_length, CHUNK_TOKENS)


def default_buckets(limits: Limits) -> Buckets:
    """Powers of two; chunks, which are rarer, take every second one.

    Attention holds a score for each pair of a prompt's token and a token that it may see, so lengths are bounded.
    """
    length = cache_length(limits)
    powers = powers_of_two(length)
    prefill = _up_to(powers, LARGEST_PREFILL)
    chunk = _up_to(prefill, MAX_CHUNK_SCORES // length)[::2]
    return Buckets(prefill=prefill, chunk=chunk, decode=powers, score=min(MAX_SCORED_BUCKET, length))


def _up_to(buckets: tuple[Bucket, ...], longest: int) -> tuple[Bucket, ...]:
    """Those that are not longer; the shortest in any case."""
    return tuple(bucket for bucket in buckets if bucket <= longest) or buckets[:1]


def powers_of_two(longest: int) -> tuple[Bucket, ...]:
    """From 128 up, ending with `longest` itself."""
    found = []
    power = SMALLEST_BUCKET
    while power < longest:
        found.append(power)
        power *= 2
    return (*found, longest)


def check_buckets(buckets: Buckets, limits: Limits) -> Buckets:
    """The buckets. Raises `OptionError` when they do not fit the limits."""
    length = cache_length(limits)
    for name in ("prefill", "chunk", "decode"):
        given: tuple[int, ...] = getattr(buckets, name)
        if not given or list(given) != sorted(set(given)) or given[0] < 1 or given[-1] > length:
            raise OptionError(f"`{name}` buckets must ascend within 1 … {length}. Given: {list(given)}")
    if buckets.decode[-1] != length:
        raise OptionError(f"the last `decode` bucket must be {length}, the cache length. Given: {buckets.decode[-1]}")
    if not 1 <= buckets.score <= length:
        raise OptionError(f"the `score` bucket must lie within 1 … {length}. Given: {buckets.score}")
    return buckets


def smallest(buckets: tuple[Bucket, ...], needed: int) -> Bucket:
    """The smallest bucket that holds `needed` tokens, or the largest there is."""
    return next((bucket for bucket in buckets if bucket >= needed), buckets[-1])


def pieces(buckets: tuple[Bucket, ...], length: int) -> Iterator[Piece]:
    """Cut `length` tokens into pieces of which each fits its bucket."""
    first = 0
    while first < length:
        bucket = smallest(buckets, length - first)
        piece = min(bucket, length - first)
        yield Piece(first, piece, bucket)
        first += piece


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below the number."""
    return -(-number // multiple) * multiple
