"""The decoder as the graphs of an optimum-neuron artifact run it: fixed rows, and KV rows written for all of them.

For the stand-in of such an artifact in tests, see `ranvier.targets.nxd.fake`. These graphs check nothing: what is put
in is written, padding too. Letters as in `attention`; B slots, L padded length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ranvier.core import Limits
from ranvier.models import DecoderSpec, PackedWeights
from ranvier.targets.neuron.attention import ChunkAttention, DecodeAttention, PrefillAttention, SlotWindow
from ranvier.targets.neuron.buckets import default_buckets
from ranvier.targets.neuron.decoder import Caches
from ranvier.targets.neuron.layers import Weights
from ranvier.targets.neuron.shapes import Shapes
from ranvier.targets.neuron.sharding import single_core
from ranvier.targets.neuron.weights import load_weights

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class StaticRows:
    """Weights and KV cache of a decoder in float32 on JAX's default device. Owned by one thread.

    `chunk_size` more rows than `sequence_length` are held in each slot, so that a chunk's window fits anywhere; no
    token gets there.
    """

    def __init__(
        self, spec: DecoderSpec, weights_path: Path, *, batch_size: int, sequence_length: int, chunk_size: int
    ) -> None:
        limits = Limits(
            batch_size=batch_size,
            sequence_length=sequence_length,
            max_input_tokens=sequence_length - 1,
            max_batch_prefill_tokens=sequence_length,
        )
        shapes = Shapes(
            spec=spec,
            limits=limits,
            buckets=default_buckets(limits),
            parallel=single_core(),
            dtype="float32",
            num_top=0,
        )
        self._decoder, self._vocab_size, self._length = shapes.decoder, spec.vocab_size, sequence_length
        self._weights = load_weights(shapes, PackedWeights(weights_path))
        held = (batch_size, self._decoder.num_kv_heads, sequence_length + chunk_size, spec.head_dim)
        self._caches: Caches = tuple((jnp.zeros(held), jnp.zeros(held)) for _ in range(spec.num_layers))
        self._graphs = {
            name: jax.jit(function, donate_argnums=1)
            for name, function in (("prefill", self._prefill), ("chunk", self._chunk), ("decode", self._decode))
        }

    def prefill(self, slot: int, ids_L: Ints, positions_L: Ints, last: int) -> Floats:
        """Write a block of L rows from row 0 of a slot on; logits `[V]` behind the token with index `last`."""
        logits: Floats = self._run("prefill", ids_L, positions_L, np.int32(slot), np.int32(last))[0]
        return logits

    def chunk(self, slot: int, ids_L: Ints, positions_L: Ints, num_real: int) -> Floats:
        """Write the rows at these positions, which count up; those behind `num_real` repeat the last and do nothing."""
        logits: Floats = self._run("chunk", ids_L, positions_L, np.int32(slot), np.int32(num_real))[0]
        return logits

    def decode(self, ids_B: Ints, positions_B: Ints) -> Floats:
        """Write a row in every slot, slot i at position i of `positions_B`; logits `[B, V]`."""
        return self._run("decode", ids_B, positions_B)

    def rows(self) -> Floats:
        """A copy of all keys and values `[2 * layers, B, K, C, E]`, C being `sequence_length`."""
        return np.stack([np.array(held)[:, :, : self._length] for cache in self._caches for held in cache])

    def release(self) -> None:
        """Let go of weights and cache."""
        self._weights, self._caches = {}, ()

    def _run(self, name: str, *inputs: Any) -> Floats:
        logits, self._caches = self._graphs[name](self._weights, self._caches, *inputs)
        return np.array(logits[:, : self._vocab_size], np.float32)

    def _prefill(
        self, weights: Weights, caches: Caches, ids: jax.Array, positions: jax.Array, slot: jax.Array, last: jax.Array
    ) -> tuple[jax.Array, Caches]:
        everything = jnp.ones(ids.shape, bool)
        window = SlotWindow(slot=slot, start=jnp.int32(0), is_real_T=everything)
        x_LD, caches = self._decoder.hidden(weights, ids, positions, caches, PrefillAttention(slot_window=window))
        return self._behind(weights, x_LD, last), caches

    def _chunk(
        self, weights: Weights, caches: Caches, ids: jax.Array, positions: jax.Array, slot: jax.Array, num: jax.Array
    ) -> tuple[jax.Array, Caches]:
        is_real = jnp.arange(ids.shape[0], dtype=jnp.int32) < num
        window = SlotWindow(slot=slot, start=positions[0], is_real_T=is_real)
        attention = ChunkAttention(slot_window=window, positions_T=positions)
        x_LD, caches = self._decoder.hidden(weights, ids, positions, caches, attention)
        return self._behind(weights, x_LD, num - 1), caches

    def _decode(
        self, weights: Weights, caches: Caches, ids: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, Caches]:
        attention = DecodeAttention(positions_S=positions, bucket=self._length)
        x_BD, caches = self._decoder.hidden(weights, ids, positions, caches, attention)
        return self._decoder.logits(weights, x_BD), caches

    def _behind(self, weights: Weights, x_LD: jax.Array, index: jax.Array) -> jax.Array:
        return self._decoder.logits(weights, jax.lax.dynamic_slice_in_dim(x_LD, index, 1))
