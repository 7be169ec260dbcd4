"""Logits processors that drop tokens: top-k, top-p, typical-p, with the semantics of Hugging Face's.

None sorts the vocabulary unless the distribution is so flat that most of it is kept.
Shapes: `K` candidates, `N` some of their indices.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ranvier.sampling.candidates import Candidates, Indices, largest

# What is tried first to find a small part of the vocabulary that surely holds the tokens to keep; the last always does.
_PROBABILITY_FLOORS = (1e-3, 1e-4, 1e-5, 0.0)
_DEVIATION_REACHES = (1.0, 2.0, 4.0, math.inf)
# exp() of less is 0 in float32; a finite stand-in keeps 0 x -inf out of the sums.
_MIN_EXPONENT = -200.0


def keep_top_k(candidates: Candidates, top_k: int) -> Candidates:
    """Keep the `top_k` >= 1 largest logits and all that equal the smallest of them."""
    if top_k >= candidates.logits_K.size:
        return candidates
    return candidates.narrowed(largest(candidates.logits_K, top_k))


def keep_top_p(candidates: Candidates, top_p: float) -> Candidates:
    """Keep the smallest set of most likely tokens whose mass is at least `top_p` in (0, 1).

    Among equal logits the smaller ids are kept first. (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751.)
    """
    weights_K = candidates.weights()
    total = float(weights_K.sum(dtype=np.float64))
    for floor in _PROBABILITY_FLOORS:
        indices_N = _at_least(candidates, floor * total)
        if weights_K[indices_N].sum(dtype=np.float64) >= top_p * total:
            break
    likely = candidates.narrowed(indices_N)
    return likely.narrowed(_nucleus(likely, top_p * total))


def _at_least(candidates: Candidates, weight: float) -> Indices:
    """Indices with at least this weight. By logits, so that no token is taken before one that has a larger logit."""
    if weight <= 0:
        return np.arange(candidates.logits_K.size)
    return np.flatnonzero(candidates.logits_K >= candidates.peak + candidates.temperature * math.log(weight))


def _nucleus(candidates: Candidates, needed: float) -> Indices:
    """Indices of the fewest largest logits whose weights sum up to `needed`; all if they never do."""
    logits_K = candidates.logits_K
    descending = Candidates(logits_K=np.sort(logits_K)[::-1], peak=candidates.peak, temperature=candidates.temperature)
    num_kept = _num_needed(descending.weights().astype(np.float64), needed)
    cutoff = descending.logits_K[num_kept - 1]
    is_kept = logits_K > cutoff
    ties = np.flatnonzero(logits_K == cutoff)
    is_kept[ties[: num_kept - np.count_nonzero(is_kept)]] = True
    return np.flatnonzero(is_kept)


def keep_typical_p(candidates: Candidates, typical_p: float) -> Candidates:
    """Keep the tokens whose surprisal is nearest to the entropy, until their mass is at least `typical_p` in (0, 1).

    Tokens exactly as near as the last one kept stay too. (Meister et al. 2022, https://arxiv.org/abs/2202.00666.)
    With exponents z and probabilities p = exp(z) / Z, the distance |-log p - entropy| is |z - sum(p z)|.
    """
    exponents_K = candidates.exponents()
    weights_K = np.exp(exponents_K)
    total = float(weights_K.sum(dtype=np.float64))
    needed = typical_p * total
    mean = float((weights_K * np.maximum(exponents_K, _MIN_EXPONENT)).sum(dtype=np.float64)) / total
    distances_K = np.abs(np.subtract(exponents_K, mean, out=exponents_K), out=exponents_K)
    for reach in _DEVIATION_REACHES:
        indices_N = np.flatnonzero(distances_K <= reach)
        if weights_K[indices_N].sum(dtype=np.float64) >= needed:
            break
    order = np.argsort(distances_K[indices_N])
    num_needed = _num_needed(weights_K[indices_N[order]].astype(np.float64), needed)
    return candidates.narrowed(np.flatnonzero(distances_K <= distances_K[indices_N[order[num_needed - 1]]]))


def _num_needed(weights_K: npt.NDArray[np.float64], needed: float) -> int:
    """How many of the weights, from the first on, sum up to `needed`; all if they never do."""
    return min(int(np.searchsorted(np.cumsum(weights_K), needed, side="left")) + 1, weights_K.size)
