"""The lengths that programs are made for: powers of two, as the neuron target has them."""

from __future__ import annotations

from dataclasses import dataclass

CHUNK_TOKENS = 32
SMALLEST_BUCKET = 128
SCORED_TOKENS = 128
"""Positions of the program that scores a prompt."""

LARGEST_PREFILL = 1024
"""Tokens of one prefill or chunk program. A matrix product is bound by arithmetic from about 220 rows on (190 TFLOPS
against 820 GiB/s, two bytes a weight), so longer programs gain nothing; scores grow with their square, and while they
run nobody decodes. Longer prompts go in pieces."""

OTHER_PROGRAMS = 8
"""Scoring a prompt; four that choose tokens: greedily, with every parameter, with grammar masks too, and a prompt's
first; copying a prefix from slot to slot, setting token counts, clearing a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBuckets:
    """Tokens of each program, ascending: whole prompts, chunks behind other tokens, and the KV rows a decode reads."""

    prefill: tuple[int, ...]
    chunk: tuple[int, ...]
    decode: tuple[int, ...]

    @property
    def num_programs(self) -> int:
        """Programs to compile."""
        return len(self.prefill) + len(self.chunk) + len(self.decode) + OTHER_PROGRAMS


def cache_length(sequence_length: int) -> int:
    """KV rows of a slot: the sequence, filled up to whole chunks of 32."""
    return -(-sequence_length // CHUNK_TOKENS) * CHUNK_TOKENS


def plan_buckets(sequence_length: int, largest_prefill: int = LARGEST_PREFILL) -> PlannedBuckets:
    """Powers of two from 128; those of prompts up to `largest_prefill`, every second one for chunks."""
    length = cache_length(sequence_length)
    prefill = powers_of_two(min(length, largest_prefill))
    return PlannedBuckets(prefill=prefill, chunk=prefill[::2], decode=powers_of_two(length))


def powers_of_two(longest: int) -> tuple[int, ...]:
    """Powers of two from 128 on and below `longest`, then `longest` itself.

    >>> powers_of_two(1000)
    (128, 256, 512, 1000)
    """
    sizes = []
    size = SMALLEST_BUCKET
    while size < longest:
        sizes.append(size)
        size *= 2
    return (*sizes, longest)
