"""Top-k, top-p, typical-p and the draw, exact over the whole vocabulary, without a sort and without a loop.

A cut-off is found by bisection: how much lies within a distance is a sum over the vocabulary, and each pass halves the
interval in which the smallest sufficient distance lies. What is left of the interval is so small (`NUM_PASSES`) that
tokens inside it are taken for equal.

Shapes: S rows, V vocabulary, B blocks of the vocabulary, L tokens in a block.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

NUM_PASSES = 28
"""Halvings: of 110 nats, 4e-7 are left."""
LONGEST_LOGIT = 2.0**14
"""Logits further than this below the largest are not told apart."""
LONGEST_EXPONENT = 110.0
"""Weights of tokens further than this below the likeliest are 0 in float32."""
_FLAT = 200.0


def sums(values_SV: Array) -> Array:
    """Row sums `[S, 1]`."""
    return values_SV.sum(axis=-1, keepdims=True)


def bisected(distances_SV: Array, amounts_SV: Array, needed: Array, longest: Array | float) -> tuple[Array, Array]:
    """A tight interval `(low, high]` of distances, `[S, 1]` each: what lies within `high` is enough, within `low` not.

    With `high` = -1 where even `longest` is not enough; the caller keeps everything then.
    """

    def is_enough(distance: Array | float) -> Array:
        return sums(jnp.where(distances_SV <= distance, amounts_SV, 0.0)) >= needed

    low, high = jnp.zeros_like(needed), jnp.zeros_like(needed) + longest
    is_ever, is_at_once = is_enough(high), is_enough(low)
    for _ in range(NUM_PASSES):
        middle = (low + high) * 0.5
        is_middle = is_enough(middle)
        low, high = jnp.where(is_middle, low, middle), jnp.where(is_middle, middle, high)
    low, high = jnp.where(is_at_once, -1.0, low), jnp.where(is_at_once, 0.0, high)
    return low, jnp.where(is_ever, high, -1.0)


def keep_top_k(is_kept_SV: Array, drops_SV: Array, top_k: Array) -> Array:
    """Keep the `top_k` largest logits and all that equal the smallest of them; 0 is off. `drops` = peak - logit."""
    ones_SV = jnp.where(is_kept_SV, 1.0, 0.0)
    furthest = jnp.where(is_kept_SV, drops_SV, 0.0).max(axis=-1, keepdims=True)
    _, high = bisected(drops_SV, ones_SV, top_k.astype(jnp.float32), jnp.minimum(furthest, LONGEST_LOGIT))
    is_off = (top_k <= 0) | (high < 0)
    return is_kept_SV & (is_off | (drops_SV <= high))


def keep_top_p(is_kept_SV: Array, falls_SV: Array, top_p: Array, block: int) -> Array:
    """Keep the likeliest tokens until their mass is `top_p`; of equal ones the smaller ids. `falls` = -exponent."""
    weights_SV = _weights(is_kept_SV, falls_SV)
    needed = top_p * sums(weights_SV)
    low, high = bisected(falls_SV, weights_SV, needed, LONGEST_EXPONENT)
    is_likelier_SV = falls_SV <= low
    is_tied_SV = (falls_SV <= high) & ~is_likelier_SV
    missing = needed - sums(jnp.where(is_likelier_SV, weights_SV, 0.0))
    last = first_reaching(jnp.where(is_tied_SV, weights_SV, 0.0), missing, block, is_strict=False)
    is_off = (top_p >= 1.0) | (high < 0)
    return is_kept_SV & (is_off | is_likelier_SV | (is_tied_SV & (token_ids(falls_SV) <= last)))


def keep_typical_p(is_kept_SV: Array, falls_SV: Array, typical_p: Array) -> Array:
    """Keep the tokens whose surprisal is nearest to the entropy until their mass is `typical_p`, equals included."""
    weights_SV = _weights(is_kept_SV, falls_SV)
    total = sums(weights_SV)
    mean = sums(weights_SV * jnp.minimum(falls_SV, _FLAT)) / total
    distances_SV = jnp.abs(falls_SV - mean)
    _, high = bisected(distances_SV, weights_SV, typical_p * total, _FLAT)
    is_off = (typical_p >= 1.0) | (high < 0)
    return is_kept_SV & (is_off | (distances_SV <= high))


def _weights(is_kept_SV: Array, falls_SV: Array) -> Array:
    return jnp.where(is_kept_SV, jnp.exp(-falls_SV), 0.0)


def token_ids(like_SV: Array) -> Array:
    """Ids `[1, V]` of the columns."""
    return jnp.arange(like_SV.shape[-1], dtype=jnp.int32)[None]


def first_reaching(weights_SV: Array, target: Array, block: int, *, is_strict: bool) -> Array:
    """The first id with a weight whose running sum reaches (strictly: exceeds) the target, `[S, 1]`.

    The last id that has a weight if none does. Running sums over blocks first, then inside the one that decides; both
    are products with a triangle of ones, since a cumulative sum is slow on a NeuronCore.
    """
    blocks_SBL = weights_SV.reshape(len(weights_SV), -1, block)
    block_sums_SB = blocks_SBL.sum(axis=-1)
    ends_SB = _running(block_sums_SB)
    chosen = _first(ends_SB, block_sums_SB, target, is_strict)
    is_chosen_SB = token_ids(block_sums_SB) == chosen
    before = sums(jnp.where(token_ids(block_sums_SB) < chosen, block_sums_SB, 0.0))
    inside_SL = jnp.where(is_chosen_SB[..., None], blocks_SBL, 0.0).sum(axis=1)
    return chosen * block + _first(_running(inside_SL), inside_SL, target - before, is_strict)


def _running(values_SN: Array) -> Array:
    """Running sums along the last axis."""
    order = jnp.arange(values_SN.shape[-1], dtype=jnp.int32)
    triangle = (order[:, None] <= order[None, :]).astype(jnp.float32)
    return jnp.dot(values_SN, triangle, precision=lax.Precision.HIGHEST)


def _first(running_SN: Array, values_SN: Array, target: Array, is_strict: bool) -> Array:
    """The first index with a value whose running sum reaches the target, else the last with a value; `[S, 1]`."""
    indices = token_ids(values_SN)
    has_value_SN = values_SN > 0
    is_there_SN = has_value_SN & (running_SN > target if is_strict else running_SN >= target)
    beyond = values_SN.shape[-1]
    first = jnp.where(is_there_SN, indices, beyond).min(axis=-1, keepdims=True)
    last = jnp.where(has_value_SN, indices, 0).max(axis=-1, keepdims=True)
    return jnp.minimum(first, last)
