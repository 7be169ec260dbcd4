"""Tensor parallelism: which axis of which array is spread over the NeuronCores.

| array | spread over |
| --- | --- |
| `q`, `k`, `v` and their biases, `o`, the KV cache | attention heads |
| `gate`, `up` and their biases, `down` | the MLP's inner width |
| `embed`, `head` | vocabulary |
| logits to choose from, token counts | slots |
| norms, positions, rotary tables, biases of `o` and `down` | nothing: each core has a copy |

The compiler derives the rest, and where cores have to add up or exchange, from these annotations. With fewer KV heads
than cores each core gets a copy of the KV head that its query heads use. Where heads or widths do not divide by the
cores, that part is computed on every core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ranvier.models import DecoderSpec

AXIS = "cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How a decoder is spread over `mesh`; None is a single core. Programs for an abstract mesh can only be lowered."""

    mesh: Mesh | AbstractMesh | None
    has_spread_heads: bool
    has_spread_mlp: bool

    @property
    def num_cores(self) -> int:
        """Cores, 1 or more."""
        return 1 if self.mesh is None else self.mesh.size

    def kv_copies(self, spec: DecoderSpec) -> int:
        """How often each KV head is held."""
        if not self.has_spread_heads:
            return 1
        return max(1, self.num_cores // spec.num_kv_heads)

    def describe(self) -> str:
        """Words for what is spread."""
        if self.mesh is None:
            return "nothing"
        parts = {"heads": self.has_spread_heads, "mlp": self.has_spread_mlp, "vocabulary": True}
        return ", ".join(name for name, is_spread in parts.items() if is_spread)

    def sharding(self, *axes: str | None) -> NamedSharding | None:
        """The placement of an array whose axes are spread over the cores where named; None on a single core."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]  # a class of JAX

    def weight(self, name: str, num_axes: int) -> NamedSharding | None:
        """The placement of a weight by our name."""
        axes: list[str | None] = [None] * num_axes
        axis = self.spread_axis(name)
        if axis is not None and axis < num_axes:
            axes[axis] = AXIS
        return self.sharding(*axes)

    def spread_axis(self, name: str) -> int | None:
        """The axis of a weight, by our name, that is spread over the cores; None where each has a copy."""
        part = name.split(".", 2)[2] if name.startswith("layers.") else name
        if part in ("embed", "head"):
            return 0
        matrix, _, bias = part.partition(".")
        if matrix in ("q", "k", "v") and self.has_spread_heads:
            return 0
        if matrix in ("gate", "up") and self.has_spread_mlp:
            return 0
        if bias:
            return None
        is_spread = self.has_spread_heads if matrix == "o" else matrix == "down" and self.has_spread_mlp
        return 1 if is_spread else None

    def cache(self) -> NamedSharding | None:
        """The placement of a layer's keys or values `[S, K, C, E]`."""
        return self.sharding(None, AXIS if self.has_spread_heads else None, None, None)

    def rows(self, num_rows: int) -> NamedSharding | None:
        """The placement of what choosing tokens needs, `[num_rows, V]`: whole rows, a core each where they divide.

        Cut-offs are sums over the vocabulary, one after the other: spread over it, each would be an exchange.
        """
        return self.sharding(AXIS if num_rows % self.num_cores == 0 else None, None)

    def everywhere(self) -> NamedSharding | None:
        """A copy on each core."""
        return self.sharding()


def single_core() -> Parallel:
    """No parallelism."""
    return Parallel(mesh=None, has_spread_heads=False, has_spread_mlp=False)


def over(devices: Sequence[jax.Device], spec: DecoderSpec) -> Parallel:
    """Spread a decoder over these devices, one or more."""
    return single_core() if len(devices) == 1 else _over(Mesh(np.array(devices), (AXIS,)), spec)


def over_cores(num_cores: int, spec: DecoderSpec) -> Parallel:
    """Spread a decoder over so many cores that need not be there: to lower its programs on any host."""
    return single_core() if num_cores == 1 else _over(AbstractMesh((num_cores,), (AXIS,)), spec)


def _over(mesh: Mesh | AbstractMesh, spec: DecoderSpec) -> Parallel:
    heads, kv_heads, num_cores = spec.num_heads, spec.num_kv_heads, mesh.size
    return Parallel(
        mesh=mesh,
        has_spread_heads=heads % num_cores == 0 and (kv_heads % num_cores == 0 or num_cores % kv_heads == 0),
        has_spread_mlp=spec.mlp.intermediate_size % num_cores == 0,
    )
