"""The tokens of one row that may still be chosen, and their tempered distribution.

Shapes: `K` candidates, `N` some of their indices. An index counts candidates from 0; it is a token id only as long as
the whole vocabulary is in play.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Indices: TypeAlias = npt.NDArray[np.intp]
Reals: TypeAlias = npt.NDArray[np.floating[Any]]

# Up to here float64 costs next to nothing; beyond, exp() of float32 is ten times as fast and good to 1e-6.
_MAX_EXACT = 1024
_NUM_GROUPS = 1024
_MIN_GROUP_SIZE = 4
_CDF_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Tokens with the probabilities softmax(`logits_K` / `temperature`).

    * `logits_K`: float32 after the logits processors so far; -inf has probability 0.
    * `peak`: largest logit of the row, finite.
    * `temperature`: a positive normal float32.
    * `token_ids_K`: ascending; None for the whole vocabulary.
    """

    logits_K: npt.NDArray[np.float32]
    peak: float
    temperature: float = 1.0
    token_ids_K: Indices | None = None

    def narrowed(self, indices_N: Indices) -> Candidates:
        """Only the candidates at these ascending indices."""
        return Candidates(
            logits_K=self.logits_K[indices_N],
            peak=self.peak,
            temperature=self.temperature,
            token_ids_K=indices_N if self.token_ids_K is None else self.token_ids_K[indices_N],
        )

    def token_id(self, index: int) -> int:
        """The id of the candidate at `index`."""
        return index if self.token_ids_K is None else int(self.token_ids_K[index])

    def exponent(self, index: int) -> float:
        """(logit - peak) / temperature, the log of the candidate's weight."""
        return (float(self.logits_K[index]) - self.peak) / self.temperature

    def exponents(self) -> Reals:
        """A new array of (logit - peak) / temperature: float64 for few candidates, float32 for many.

        The peak goes first: a quotient of float32 by a small temperature has lost the differences that matter.
        """
        is_exact = self.logits_K.size <= _MAX_EXACT
        exponents_K: Reals = np.subtract(self.logits_K, self.peak, dtype=np.float64 if is_exact else np.float32)
        if self.temperature != 1.0:
            np.divide(exponents_K, self.temperature, out=exponents_K)
        return exponents_K

    def weights(self) -> Reals:
        """A new array of probabilities times one unknown factor; the row's most likely token has weight 1."""
        weights_K = self.exponents()
        return np.exp(weights_K, out=weights_K)

    def most_likely(self, num_tokens: int) -> Indices:
        """The most likely candidates, likeliest first, the smaller id first among equals; none with logit -inf."""
        indices_N = largest(self.logits_K, num_tokens)
        logits_N = self.logits_K[indices_N]
        order = np.argsort(-logits_N, kind="stable")[:num_tokens]
        likeliest_N: Indices = indices_N[order[logits_N[order] > -np.inf]]
        return likeliest_N


def largest(values_K: npt.NDArray[np.float32], count: int) -> Indices:
    """Ascending indices of all values that are at least the `count`-th largest; all indices if there are fewer."""
    if count >= values_K.size:
        return np.arange(values_K.size)
    indices_N = np.flatnonzero(values_K >= _bound_of_largest(values_K, count))
    values_N = values_K[indices_N]
    rank = values_N.size - count
    largest_N: Indices = indices_N[values_N >= np.partition(values_N, rank)[rank]]
    return largest_N


def _bound_of_largest(values_K: npt.NDArray[np.float32], count: int) -> float:
    """A number that at least `count` values reach, and few more when values are spread over the row.

    It is the `count`-th largest of the maxima of disjoint groups: that many groups have a member that reaches it.
    """
    num_groups = max(_NUM_GROUPS, 4 * count)
    group_size = values_K.size // num_groups
    if group_size < _MIN_GROUP_SIZE:
        return -math.inf
    maxima = values_K[: group_size * num_groups].reshape(group_size, num_groups).max(axis=0)
    rank = num_groups - count
    return float(np.partition(maxima, rank)[rank])


def inverse_cdf(weights_K: Reals, u: float) -> tuple[int, float]:
    """The first index whose running sum of weights exceeds `u` times the sum of all, and that sum.

    `u` is in [0, 1). Weights are finite, not negative, and one is positive; a weight of 0 is never chosen. Sums are
    float64, over blocks first: only the block that holds the answer is summed weight by weight.
    """
    block_sums = np.add.reduceat(weights_K, np.arange(0, weights_K.size, _CDF_BLOCK), dtype=np.float64)
    ends = np.cumsum(block_sums)
    target = u * ends[-1]
    block = int(np.searchsorted(ends, target, side="right"))
    start = block * _CDF_BLOCK
    sums = np.cumsum(weights_K[start : start + _CDF_BLOCK], dtype=np.float64)
    rest = target - ends[block - 1] if block else target
    # A sum by another order of additions may end just short of `rest`: then the last weight that counts is meant.
    inside = min(np.searchsorted(sums, rest, side="right"), np.searchsorted(sums, sums[-1], side="left"))
    return start + int(inside), float(ends[-1])
