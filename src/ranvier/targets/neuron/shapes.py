"""Everything static about an artifact's programs: shapes, types, placements. Nothing here holds memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from ranvier.core import Limits
from ranvier.models import DecoderSpec
from ranvier.targets.neuron.buckets import Buckets, cache_length, round_up
from ranvier.targets.neuron.decoder import Decoder, rotary_names
from ranvier.targets.neuron.sharding import Parallel

ComputeType = Literal["float32", "bfloat16", "float16"]

Abstract = jax.ShapeDtypeStruct
Weights = dict[str, Abstract]


def abstract(shape: tuple[int, ...], dtype: str, sharding: NamedSharding | None) -> Abstract:
    """An array without memory."""
    return Abstract(shape, jnp.dtype(dtype), sharding=sharding)  # type: ignore[no-untyped-call]  # a class of JAX


_LARGE_VOCABULARY = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What the programs are traced from.

    `dtype` is that of matrices, activations and KV cache; norms, biases, tables and logits are float32. `num_top` is
    how many of the most likely tokens each choice reports.
    """

    spec: DecoderSpec
    limits: Limits
    buckets: Buckets
    parallel: Parallel
    dtype: ComputeType
    num_top: int

    @property
    def decoder(self) -> Decoder:
        """The forward pass for these placements."""
        return Decoder(spec=self.spec, kv_copies=self.parallel.kv_copies(self.spec))

    @property
    def num_slots(self) -> int:
        """Rows of a decode."""
        return self.limits.batch_size

    @property
    def cache_length(self) -> int:
        """KV rows of a slot."""
        return cache_length(self.limits)

    @property
    def block(self) -> int:
        """Tokens in one block of the vocabulary, as the draw adds them up."""
        return 512 if self.spec.vocab_size >= _LARGE_VOCABULARY else 32

    @property
    def vocab_size(self) -> int:
        """Columns of the logits: the vocabulary, filled up to whole blocks for each core."""
        return round_up(self.spec.vocab_size, self.block * self.parallel.num_cores)

    @property
    def mask_words(self) -> int:
        """32-bit words of one row's grammar mask."""
        return self.vocab_size // 32

    def weights(self) -> Weights:
        """Every weight as it is held, by our name."""
        spec = self.spec
        shapes = dict(spec.shared_shapes())
        for layer in range(spec.num_layers):
            shapes |= {f"layers.{layer}.{name}": shape for name, shape in spec.layer_shapes().items()}
        held = {name: self._weight(name, self.held_shape(name, shape)) for name, shape in shapes.items()}
        for rope, name in rotary_names(spec).items():
            for part in ("cos", "sin"):
                held[f"{name}.{part}"] = self._weight(f"{name}.{part}", (self.cache_length, rope.rotary_dim))
        return held

    def held_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which a weight is held that the spec gives this shape."""
        if name in ("embed", "head"):
            return self.vocab_size, shape[1]
        if name == "positions":
            return self.cache_length, shape[1]
        if is_kv_weight(name, self.spec):
            return shape[0] * self.parallel.kv_copies(self.spec), *shape[1:]
        return shape

    def _weight(self, name: str, shape: tuple[int, ...]) -> Abstract:
        is_matrix = len(shape) == 2 and name != "positions" and not name.startswith("rotary.")
        return abstract(shape, self.dtype if is_matrix else "float32", self.parallel.weight(name, len(shape)))

    def cache(self) -> Abstract:
        """Keys or values of one layer: `[S, K, C, E]`."""
        shape = (self.num_slots, self.decoder.num_kv_heads, self.cache_length, self.spec.head_dim)
        return abstract(shape, self.dtype, self.parallel.cache())

    def counts(self) -> Abstract:
        """Token counts `[S, V]`, see `sampling.penalties`."""
        return abstract((self.num_slots, self.vocab_size), "float32", self.parallel.rows(self.num_slots))

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache over all layers and cores."""
        one = self.cache()
        num_bytes: int = 2 * self.spec.num_layers * math.prod(one.shape) * one.dtype.itemsize
        return num_bytes


def is_kv_weight(name: str, spec: DecoderSpec) -> bool:
    """Whether the rows of a weight are those of KV heads."""
    parts = name.split(".")
    if parts[0] != "layers":
        return False
    return parts[2] in ("k", "v") or (parts[2] == "k_norm" and spec.attention.qk_norm == "width")
