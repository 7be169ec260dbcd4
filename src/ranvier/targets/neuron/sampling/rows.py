"""Sampling rows as the arrays that are inputs of a program, and their columns.

Shapes: S rows of the program, W words of 32 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ranvier.core import SamplingRow
from ranvier.sampling.random import uniform

INT_COLUMNS = ("is_sampled", "top_k")
REAL_COLUMNS = (
    "temperature",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "penalty_per_occurrence",
    "presence_penalty",
    "uniform",
)
_NEUTRAL = (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
_SMALLEST, _LARGEST = 1e-30, 1e30
_LARGEST_K = 2**24

Ints = npt.NDArray[np.int32]
Reals = npt.NDArray[np.float32]


class RowArrays(NamedTuple):
    """`ints [S, 2]` and `reals [S, 7]`, by `INT_COLUMNS` and `REAL_COLUMNS`."""

    ints: Ints
    reals: Reals


def packed_rows(rows: Iterable[tuple[int, SamplingRow]], num_rows: int) -> RowArrays:
    """`(index, row)` pairs; indices that are not named stay neutral, which means greedy."""
    ints = np.zeros((num_rows, len(INT_COLUMNS)), np.int32)
    reals = np.empty((num_rows, len(REAL_COLUMNS)), np.float32)
    reals[:] = _NEUTRAL
    for index, row in rows:
        params = row.params
        if params.needs_history:
            # An empty history has no occurrences: any divisor will do.
            per_occurrence = params.frequency_penalty / max(len(row.history), 1)
            reals[index, 3:6] = _normal(params.repetition_penalty), per_occurrence, params.presence_penalty
        if params.do_sample:
            ints[index] = 1, min(params.top_k, _LARGEST_K)
            reals[index, :3] = _normal(params.temperature), params.top_p, params.typical_p
            reals[index, 6] = uniform(params.seed, row.token_index)
    return RowArrays(ints, reals)


def _normal(value: float) -> float:
    """The nearest number that logits can be divided by without leaving float32."""
    return min(max(value, _SMALLEST), _LARGEST)


def packed_mask(rows: Iterable[tuple[int, SamplingRow]], num_rows: int, num_words: int) -> Ints:
    """Bits of `SamplingRow.allowed`, `[S, W]`, token t in bit t % 32 of word t // 32; all ones where there is none."""
    mask = np.full((num_rows, num_words), -1, np.int32)
    as_bytes = mask.view(np.uint8)
    for index, row in rows:
        if row.allowed is not None:
            given = np.frombuffer(row.allowed, np.uint8)[: num_words * 4]
            as_bytes[index, : given.size] = given
            as_bytes[index, given.size :] = 0
    return mask
