"""One token for each row of logits, with the order and the semantics of `HostSampler.choose`.

Everything is float32. What a parameter switches off is computed and not used: the shapes of a program are fixed.
Shapes: S rows, V vocabulary as it is held, W words of 32 tokens, N most likely tokens that are reported.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ranvier.targets.neuron.sampling import cutoffs
from ranvier.targets.neuron.sampling.cutoffs import sums, token_ids
from ranvier.targets.neuron.sampling.penalties import penalized
from ranvier.targets.neuron.sampling.rows import REAL_COLUMNS

NO_TOKEN = -1
_FAR = 3e38
"""Beyond every logit. Finite: what a core makes of infinities is not documented."""


class Choices(NamedTuple):
    """The chosen token and the N most likely ones, `[S, 1 + N]` ids and log-probabilities.

    `NO_TOKEN` where none could be chosen, and where fewer than N are left.
    """

    ids: Array
    logprobs: Array


def choose(
    logits_SV: Array,
    *,
    vocab_size: int,
    num_top: int,
    block: int,
    ints: Array | None = None,
    reals: Array | None = None,
    counts_SV: Array | None = None,
    mask_SW: Array | None = None,
) -> Choices:
    """Choose by the columns of `ints` and `reals` (see `rows`); without them greedily and without penalties.

    Columns from `vocab_size` on are never chosen. `block` divides V.
    """
    is_kept_SV = jnp.broadcast_to(token_ids(logits_SV) < vocab_size, logits_SV.shape)
    if mask_SW is not None:
        is_kept_SV = is_kept_SV & _unpacked(mask_SW)
    if ints is None or reals is None or counts_SV is None:
        drops_SV, is_kept_SV, is_finite = _drops(logits_SV, is_kept_SV)
        chosen = _first_id(is_kept_SV & (drops_SV == 0.0))
        return _choices(chosen, drops_SV, is_kept_SV, drops_SV, is_finite, num_top)
    column = {name: reals[:, index, None] for index, name in enumerate(REAL_COLUMNS)}
    is_sampled, top_k = ints[:, 0, None] > 0, ints[:, 1, None]
    logits_SV = penalized(
        logits_SV,
        counts_SV,
        repetition=column["repetition_penalty"],
        per_occurrence=column["penalty_per_occurrence"],
        presence=column["presence_penalty"],
    )
    drops_SV, is_kept_SV, is_finite = _drops(logits_SV, is_kept_SV)
    falls_SV = jnp.minimum(drops_SV, cutoffs.LONGEST_LOGIT) / column["temperature"]
    best = _first_id(is_kept_SV & (drops_SV == 0.0))
    is_kept_SV = cutoffs.keep_top_k(is_kept_SV, drops_SV, top_k)
    is_kept_SV = cutoffs.keep_top_p(is_kept_SV, falls_SV, column["top_p"], block)
    is_kept_SV = cutoffs.keep_typical_p(is_kept_SV, falls_SV, column["typical_p"])
    weights_SV = jnp.where(is_kept_SV, jnp.exp(-falls_SV), 0.0)
    drawn = cutoffs.first_reaching(weights_SV, column["uniform"] * sums(weights_SV), block, is_strict=True)
    return _choices(jnp.where(is_sampled, drawn, best), falls_SV, is_kept_SV, drops_SV, is_finite, num_top)


def _unpacked(mask_SW: Array) -> Array:
    """One boolean for each bit of the words, `[S, 32 W]`."""
    bits_SWI = (mask_SW[..., None] >> jnp.arange(32, dtype=jnp.int32)) & 1
    return bits_SWI.reshape(len(mask_SW), -1) != 0


def _drops(logits_SV: Array, is_kept_SV: Array) -> tuple[Array, Array, Array]:
    """How far each logit lies below the largest kept one; which are kept and not -inf; whether a row can be used."""
    is_wrong_SV = is_kept_SV & ~(logits_SV < _FAR)
    is_kept_SV = is_kept_SV & (logits_SV > -_FAR)
    peak = jnp.where(is_kept_SV, logits_SV, -_FAR).max(axis=-1, keepdims=True)
    is_finite = ~is_wrong_SV.any(axis=-1, keepdims=True) & is_kept_SV.any(axis=-1, keepdims=True)
    return jnp.where(is_kept_SV, peak - logits_SV, _FAR), is_kept_SV, is_finite


def _first_id(is_meant_SV: Array) -> Array:
    """The smallest id that is meant, `[S, 1]`; the last id if none is. No argmax: it reduces two arrays at once."""
    last = is_meant_SV.shape[-1] - 1
    return jnp.where(is_meant_SV, token_ids(is_meant_SV), last).min(axis=-1, keepdims=True)


def _choices(
    chosen: Array, falls_SV: Array, is_kept_SV: Array, drops_SV: Array, is_finite: Array, num_top: int
) -> Choices:
    """`falls` are the negative exponents of the distribution, `drops` put the tokens in order."""
    log_mass = jnp.log(sums(jnp.where(is_kept_SV, jnp.exp(-falls_SV), 0.0)))
    all_ids, all_falls = [jnp.where(is_finite, chosen, NO_TOKEN)], [_picked(falls_SV, chosen)]
    is_left_SV = is_kept_SV
    for _ in range(num_top):
        nearest = jnp.where(is_left_SV, drops_SV, _FAR).min(axis=-1, keepdims=True)
        token = _first_id(is_left_SV & (drops_SV == nearest))
        all_ids.append(jnp.where(nearest < _FAR, token, NO_TOKEN))
        all_falls.append(_picked(falls_SV, token))
        is_left_SV = is_left_SV & (token_ids(falls_SV) != token)
    return Choices(jnp.concatenate(all_ids, axis=-1), -jnp.concatenate(all_falls, axis=-1) - log_mass)


def _picked(values_SV: Array, ids: Array) -> Array:
    """Each row's value at its id, `[S, 1]`."""
    return sums(jnp.where(token_ids(values_SV) == ids, values_SV, 0.0))


def is_finite_number(x: Array) -> Array:
    """Where `x` is neither NaN nor infinite."""
    return jnp.abs(x.astype(jnp.float32)) < _FAR


def log_probabilities(logits_TV: Array, ids_T: Array, vocab_size: int) -> Array:
    """Natural log of P(id) under each row of raw logits, `[T]`."""
    is_real = token_ids(logits_TV) < vocab_size
    peak = jnp.where(is_real, logits_TV, -_FAR).max(axis=-1, keepdims=True)
    log_mass = jnp.log(sums(jnp.where(is_real, jnp.exp(logits_TV - peak), 0.0)))
    return (_picked(logits_TV, ids_T[:, None]) - peak - log_mass)[:, 0]
