"""A `DecoderSpec` as one JAX function over flat tokens: ids and positions in, hidden states and KV rows out.

Shape letters: T tokens, D model width, H query heads, K KV heads as they are held, G = H / K, E head width, V
vocabulary as it is held, N layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from ranvier.models import DecoderSpec
from ranvier.models.rope import RopeSpec
from ranvier.targets.neuron import layers
from ranvier.targets.neuron.attention import Attention, Cache
from ranvier.targets.neuron.layers import Weights

Caches = tuple[Cache, ...]


def rotary_names(spec: DecoderSpec) -> dict[RopeSpec, str]:
    """A name for each rotary embedding of the decoder, under which its tables are among the weights."""
    ropes = dict.fromkeys(layer.rope for layer in spec.layers if layer.rope is not None)
    return {rope: f"rotary.{number}" for number, rope in enumerate(ropes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """The forward pass. `kv_copies` is how often each KV head is held, for cores that share it."""

    spec: DecoderSpec
    kv_copies: int = 1

    @property
    def num_kv_heads(self) -> int:
        """KV heads as they are held."""
        return self.spec.num_kv_heads * self.kv_copies

    def hidden(
        self, weights: Weights, ids_T: Array, positions_T: Array, caches: Caches, attention: Attention
    ) -> tuple[Array, Caches]:
        """Hidden states `[T, D]` after the last layer, before the final norm, and the caches of all layers."""
        step = _Step(self, weights, positions_T, attention)
        x_TD = step.embedded(ids_T)
        written = []
        for index, cache in enumerate(caches):
            x_TD, new = step.block(x_TD, index, cache)
            written.append(new)
        return x_TD, tuple(written)

    def logits(self, weights: Weights, x_TD: Array) -> Array:
        """Float32 logits `[T, V]`; ids beyond the vocabulary are there as well and mean nothing."""
        spec = self.spec
        x_TD = layers.norm(x_TD, weights, "final_norm", spec.norm)
        head = weights["embed" if spec.has_tied_head else "head"]
        logits_TV = lax.dot_general(x_TD, head, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        return _scaled(logits_TV, spec.multipliers.logits)


class _Step:
    """One trace of the forward pass."""

    def __init__(self, decoder: Decoder, weights: Weights, positions_T: Array, attention: Attention) -> None:
        self._decoder, self._spec, self._weights = decoder, decoder.spec, weights
        self._positions_T, self._attention = positions_T, attention
        self._tables = {
            rope: tuple(layers.rows_of(weights[f"{name}.{part}"], positions_T) for part in ("cos", "sin"))
            for rope, name in rotary_names(decoder.spec).items()
        }

    def embedded(self, ids_T: Array) -> Array:
        x_TD = _scaled(layers.rows_of(self._weights["embed"], ids_T), self._spec.multipliers.embedding)
        if not self._spec.has_learned_positions:
            return x_TD
        return x_TD + layers.rows_of(self._weights["positions"], self._positions_T).astype(x_TD.dtype)

    def block(self, x_TD: Array, layer: int, cache: Cache) -> tuple[Array, Cache]:
        """One layer, in the order that `spec.block` names."""
        kind = self._spec.block
        if kind in ("parallel", "parallel_shared"):
            h_TD = self._norm(x_TD, layer, "attn_norm")
            attended, cache = self._attend(h_TD, layer, cache)
            mlp_in = h_TD if kind == "parallel_shared" else self._norm(x_TD, layer, "mlp_norm")
            return self._plus(x_TD, attended + self._mlp(mlp_in, layer)), cache
        has_norm_before, has_norm_after = kind != "post", kind != "pre"
        h_TD = self._norm(x_TD, layer, "attn_norm") if has_norm_before else x_TD
        branch, cache = self._attend(h_TD, layer, cache)
        x_TD = self._plus(x_TD, self._norm(branch, layer, "attn_post_norm") if has_norm_after else branch)
        h_TD = self._norm(x_TD, layer, "mlp_norm") if has_norm_before else x_TD
        branch = self._mlp(h_TD, layer)
        return self._plus(x_TD, self._norm(branch, layer, "mlp_post_norm") if has_norm_after else branch), cache

    def _norm(self, x: Array, layer: int, name: str) -> Array:
        return layers.norm(x, self._weights, f"layers.{layer}.{name}", self._spec.norm)

    def _plus(self, x_TD: Array, branch_TD: Array) -> Array:
        return x_TD + _scaled(branch_TD, self._spec.multipliers.residual)

    def _product(self, x: Array, layer: int, name: str) -> Array:
        return layers.product(x, self._weights, f"layers.{layer}.{name}")

    def _attend(self, h_TD: Array, layer: int, cache: Cache) -> tuple[Array, Cache]:
        spec, kind, heads = self._spec, self._spec.layer(layer), self._decoder.num_kv_heads
        query = self._heads(self._product(h_TD, layer, "q"), layer, "q_norm", kind.rope)
        key = self._heads(self._product(h_TD, layer, "k"), layer, "k_norm", kind.rope)
        value = self._product(h_TD, layer, "v").reshape(-1, heads, spec.head_dim)
        query = query.reshape(-1, heads, spec.num_heads // heads, spec.head_dim)
        out, cache = self._attention(query, key, value, cache, scale=spec.attention.scale, window=kind.window)
        return self._product(out.reshape(len(h_TD), -1), layer, "o"), cache

    def _heads(self, x: Array, layer: int, norm_name: str, rope: RopeSpec | None) -> Array:
        """Queries or keys `[T, heads * E]` as `[T, heads, E]`, normalized and rotated as the spec asks."""
        qk_norm = self._spec.attention.qk_norm
        if qk_norm == "width":
            x = self._norm(x, layer, norm_name)
        x = x.reshape(len(x), -1, self._spec.head_dim)
        if qk_norm == "head":
            x = self._norm(x, layer, norm_name)
        return x if rope is None else layers.rotated(x, *self._tables[rope])

    def _mlp(self, h_TD: Array, layer: int) -> Array:
        mlp = self._spec.mlp
        inner = self._product(h_TD, layer, "up")
        if mlp.is_gated:
            inner = layers.activation(self._product(h_TD, layer, "gate"), mlp.activation) * inner
        else:
            inner = layers.activation(inner, mlp.activation)
        return self._product(inner, layer, "down")


def _scaled(x: Array, factor: float) -> Array:
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)
