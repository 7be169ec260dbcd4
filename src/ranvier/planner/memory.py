"""Memory of one core and of the host, from shapes.

Weights and KV cache are exact for the neuron target's placements, counts where the cores do not divide the slots (where
they do, a core has only its share). Logits, scratch, the reserve and all host
figures are estimates that no Neuron device has confirmed; `docs/neuron.md` lists them as unproven.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ranvier.models.spec import DecoderSpec
from ranvier.neuron_host import BYTES_PER_VALUE, GIB, CastType
from ranvier.planner.buckets import SCORED_TOKENS, cache_length, plan_buckets
from ranvier.planner.sharding import CoreShare, largest_tensor

RESERVE_BYTES = 1 * GIB
"""Estimate: what programs, collectives' buffers, DMA rings and the runtime take of a core's HBM (the categories
model_code, collectives, dma_rings, runtime_memory and driver_memory of the driver's sysfs tree)."""

SAMPLING_COPIES = 4
"""Estimate: float32 rows of logits alive at a time in a sampling program (raw, penalized, scaled, probabilities)."""

SCORING_COPIES = 2
"""Estimate: the same in the program that scores a prompt, for each of its positions."""

HOST_BASE_BYTES = 2 * GIB
"""Estimate: operating system, Python, JAX and runtime, before any weight."""

COMPILE_BASE_BYTES = 4 * GIB
COMPILE_PER_WEIGHT_BYTE = 1.5
"""Estimate: the compiler takes 4 GiB and one and a half times the weights of one core for a program. It is meant to be
pessimistic; the reports behind it are of 8B models whose compile was killed on hosts of 16 and 32 GiB
(aws-neuron/neuronx-distributed#53, aws-neuron/neuronx-distributed-inference#26)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a plan's memory depends on beside the model: static limits, tokens of a prefill at most, cast type."""

    batch_size: int
    sequence_length: int
    largest_prefill: int
    cast_type: CastType


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMemory:
    """Bytes of one core's HBM.

    * `weights`, with rotary and position tables. `kv_cache` for all slots. `counts`: the matrix of token counts that
      penalties work from.
    * `logits`: rows while tokens are chosen or scored (estimate). `scratch`: activations of the largest program
      (estimate). `reserve`: programs and runtime (estimate).
    """

    weights: int
    kv_cache: int
    counts: int
    logits: int
    scratch: int
    reserve: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Estimated bytes of host memory for each phase of one artifact's life.

    * `export`: writing shards, a tensor at a time. `compile_one`: one program in the compiler; `each_more`: what every
      further program that compiles at the same time adds.
    * `load`: bringing weights to the devices, a core's shard at a time.
    """

    export: int
    compile_one: int
    each_more: int
    load: int


def kv_bytes_per_token(spec: DecoderSpec, share: CoreShare, cast_type: CastType) -> int:
    """KV cache bytes of one token on one core: key and value, `kv_heads x head_dim`, every layer."""
    return 2 * spec.num_layers * share.kv_heads * spec.head_dim * BYTES_PER_VALUE[cast_type]


def core_memory(spec: DecoderSpec, share: CoreShare, shape: Shape) -> CoreMemory:
    """Bytes of one core. No part of it shrinks when batch, sequence or prefill grow."""
    rows = cache_length(shape.sequence_length)
    vocab = share.vocab * share.num_cores
    logit_rows = max(SAMPLING_COPIES * shape.batch_size, SCORING_COPIES * SCORED_TOKENS)
    return CoreMemory(
        weights=share.stored_bytes(shape.cast_type) + _table_bytes(spec, rows),
        kv_cache=kv_bytes_per_token(spec, share, shape.cast_type) * shape.batch_size * rows,
        counts=4 * shape.batch_size * vocab,
        logits=4 * logit_rows * vocab,
        scratch=_scratch(spec, share, shape),
        reserve=RESERVE_BYTES,
    )


def _table_bytes(spec: DecoderSpec, rows: int) -> int:
    """Float32 tables with a row for each position: cosines and sines of each rotary embedding, learned positions."""
    ropes = {layer.rope for layer in spec.layers if layer.rope is not None}
    width = sum(2 * rope.rotary_dim for rope in ropes) + (spec.hidden_size if spec.has_learned_positions else 0)
    return 4 * rows * width


def _scratch(spec: DecoderSpec, share: CoreShare, shape: Shape) -> int:
    """The largest of a prefill, whose tokens see each other, a chunk, which sees a slot, and a decode of all rows."""
    width, rows = BYTES_PER_VALUE[shape.cast_type], cache_length(shape.sequence_length)
    buckets = plan_buckets(shape.sequence_length, shape.largest_prefill)
    sizes = ((buckets.prefill[-1], buckets.prefill[-1]), (buckets.chunk[-1], rows), (shape.batch_size, rows))
    return max(_activations(spec, share, tokens, context, width) for tokens, context in sizes)


def _activations(spec: DecoderSpec, share: CoreShare, tokens: int, context: int, width: int) -> int:
    """Estimate: one layer's activations for `tokens` that see `context` tokens each.

    Residual stream, its norm and a branch's sum in the cast type and float32; queries, keys, values; the halves of the
    MLP; scores in float32 and their softmax in the cast type, as if none of it were tiled.
    """
    residual = 2 * spec.hidden_size * (4 + width)
    attention = (share.heads + 2 * share.kv_heads) * spec.head_dim * width
    mlp = (2 if spec.mlp.is_gated else 1) * share.intermediate * width
    scores = share.heads * context * (4 + width)
    return tokens * (residual + attention + mlp + scores)


def host_memory(spec: DecoderSpec, share: CoreShare, cast_type: CastType) -> HostMemory:
    """Estimated bytes of host memory; see the constants for what stands behind them."""
    shard = share.stored_bytes(cast_type)
    program = COMPILE_BASE_BYTES + int(COMPILE_PER_WEIGHT_BYTE * shard)
    return HostMemory(
        # As stored, as float32, as written: three copies of at most four bytes.
        export=HOST_BASE_BYTES + 3 * 4 * largest_tensor(spec),
        compile_one=HOST_BASE_BYTES + program,
        each_more=program,
        load=HOST_BASE_BYTES + shard,
    )
