"""Token counts on the device, and the logits processors that read them.

One float32 matrix `[S, V]` holds for each slot how often each token occurs in prompt and output; half an occurrence
more marks a token that is in the output, which is what the presence penalty asks. So one matrix is enough, and a
decode changes one value of each row: it reads it, works out the next and writes that, since scatters that add are
not supported for integers and slow elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

_IN_OUTPUT = 0.5


def counts_of(history: Sequence[int], num_generated: int, vocab_size: int) -> npt.NDArray[np.float32]:
    """The row `[V]` for a history of which the last `num_generated` tokens are output."""
    ids = np.asarray(history, np.int64)
    counts_V = np.bincount(ids, minlength=vocab_size).astype(np.float32)
    if num_generated:
        counts_V[np.unique(ids[-num_generated:])] += np.float32(_IN_OUTPUT)
    return counts_V


def with_output(counts_SV: Array, ids_S: Array, is_active_S: Array) -> Array:
    """The counts after one more output token in each active row."""
    slots_S = jnp.arange(counts_SV.shape[0], dtype=jnp.int32)
    old_S = counts_SV.at[slots_S, ids_S].get(mode="promise_in_bounds")
    new_S = jnp.where(is_active_S, jnp.floor(old_S) + (1.0 + _IN_OUTPUT), old_S)
    return counts_SV.at[slots_S, ids_S].set(new_S, mode="promise_in_bounds", unique_indices=True)


def penalized(
    logits_SV: Array, counts_SV: Array, *, repetition: Array, per_occurrence: Array, presence: Array
) -> Array:
    """Repetition, then frequency, then presence penalty, each `[S, 1]`; see `ranvier.sampling.penalties`."""
    occurrences_SV = jnp.floor(counts_SV)
    repeated_SV = jnp.where(logits_SV < 0, logits_SV * repetition, logits_SV / repetition)
    logits_SV = jnp.where(counts_SV > 0, repeated_SV - per_occurrence * occurrences_SV, logits_SV)
    return jnp.where(counts_SV > occurrences_SV, logits_SV - presence, logits_SV)
