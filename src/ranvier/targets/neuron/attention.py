"""The three ways of attending, and how each writes its keys and values.

A layer's cache is two arrays `[S, K, C, E]`: S slots, K KV heads, C cache length, E head width. T tokens, G query
heads for each KV head. A program writes exactly the rows of its tokens; padding writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jax import Array, lax

_OFF = -1e9
"""A score that no weight is left of. Finite: differences of infinities are NaN, and some cores flush them."""

Cache = tuple[Array, Array]


class Attention(Protocol):
    """Attention of one program. `window` and `scale` are those of the layer."""

    def __call__(
        self, query_TKGE: Array, key_TKE: Array, value_TKE: Array, cache: Cache, *, scale: float, window: int | None
    ) -> tuple[Array, Cache]:
        """What the tokens attend to, `[T, K, G, E]`, and the cache with their rows written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeAttention:
    """One token for each slot, at `positions_S`; a row of the cache is written at each of them. Reads `bucket` rows."""

    positions_S: Array
    bucket: int

    def __call__(
        self, query_TKGE: Array, key_TKE: Array, value_TKE: Array, cache: Cache, *, scale: float, window: int | None
    ) -> tuple[Array, Cache]:
        """See `Attention`."""
        slots_S = jnp.arange(query_TKGE.shape[0], dtype=jnp.int32)
        keys, values = (
            held.at[slots_S, :, self.positions_S].set(
                rows.astype(held.dtype), mode="promise_in_bounds", unique_indices=True
            )
            for held, rows in zip(cache, (key_TKE, value_TKE), strict=True)
        )
        seen = _visible(self.positions_S, jnp.arange(self.bucket, dtype=jnp.int32), window)
        out = _attend("skge,skce->skgc", "skgc,skce->skge", query_TKGE, keys, values, seen, scale, self.bucket)
        return out, (keys, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotWindow:
    """KV rows of one slot from `start` on, one for each token; those that are real are written."""

    slot: Array
    start: Array
    is_real_T: Array

    def written(self, held: Array, rows_TKE: Array) -> Array:
        """The cache with the rows that are real."""
        num_rows, heads, width = rows_TKE.shape
        zero = jnp.int32(0)
        at = (self.slot, zero, self.start, zero)
        old = lax.dynamic_slice(held, at, (1, heads, num_rows, width))
        new = jnp.where(self.is_real_T[None, None, :, None], rows_TKE.swapaxes(0, 1)[None].astype(held.dtype), old)
        return lax.dynamic_update_slice(held, new, at)

    def rows(self, held: Array) -> Array:
        """All rows of the slot, `[1, K, C, E]`."""
        zero = jnp.int32(0)
        return lax.dynamic_slice(held, (self.slot, zero, zero, zero), (1, *held.shape[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillAttention:
    """A whole prompt of one slot: its tokens see each other and nothing else."""

    slot_window: SlotWindow

    def __call__(
        self, query_TKGE: Array, key_TKE: Array, value_TKE: Array, cache: Cache, *, scale: float, window: int | None
    ) -> tuple[Array, Cache]:
        """See `Attention`."""
        keys, values = (
            self.slot_window.written(held, rows) for held, rows in zip(cache, (key_TKE, value_TKE), strict=True)
        )
        order = jnp.arange(query_TKGE.shape[0], dtype=jnp.int32)
        seen = _visible(order, order, window)
        own = (key_TKE.swapaxes(0, 1)[None], value_TKE.swapaxes(0, 1)[None])
        out = _attend(*_ONE_SLOT, query_TKGE, *own, seen, scale, len(order))
        return out, (keys, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkAttention:
    """Tokens of one slot behind others of it: they see all its rows up to their own."""

    slot_window: SlotWindow
    positions_T: Array

    def __call__(
        self, query_TKGE: Array, key_TKE: Array, value_TKE: Array, cache: Cache, *, scale: float, window: int | None
    ) -> tuple[Array, Cache]:
        """See `Attention`."""
        keys, values = (
            self.slot_window.written(held, rows) for held, rows in zip(cache, (key_TKE, value_TKE), strict=True)
        )
        length = keys.shape[2]
        seen = _visible(self.positions_T, jnp.arange(length, dtype=jnp.int32), window)
        of_slot = (self.slot_window.rows(keys), self.slot_window.rows(values))
        out = _attend(*_ONE_SLOT, query_TKGE, *of_slot, seen, scale, length)
        return out, (keys, values)


_ONE_SLOT = ("tkge,skce->tkgc", "tkgc,skce->tkge")


def _visible(positions_T: Array, others_C: Array, window: int | None) -> Array:
    """Which positions each token sees, `[T, C]`."""
    distance_TC = positions_T[:, None] - others_C[None, :]
    is_past = distance_TC >= 0
    return is_past if window is None else is_past & (distance_TC < window)


def _attend(
    scoring: str,
    mixing: str,
    query_TKGE: Array,
    keys: Array,
    values: Array,
    seen_TC: Array,
    scale: float,
    length: int,
) -> Array:
    """Softmax over the visible ones of the first `length` rows, in float32."""
    keys, values = keys[:, :, :length], values[:, :, :length]
    scores = jnp.einsum(scoring, query_TKGE, keys.astype(query_TKGE.dtype), preferred_element_type=jnp.float32) * scale
    scores = jnp.where(seen_TC[:, None, None, :], scores, _OFF)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    mixed = jnp.einsum(
        mixing, weights.astype(query_TKGE.dtype), values.astype(query_TKGE.dtype), preferred_element_type=jnp.float32
    )
    return mixed.astype(query_TKGE.dtype)
