"""What one core of a tensor-parallel group holds and computes, by the neuron target's rules.

Query, key, value, gate and up are split by output rows, out and down by input columns (Megatron's sharding, Shoeybi et
al. 2019, section 3), embedding and head by the vocabulary. Norms, biases of out and down, learned positions and rotary
tables are on every core. With fewer KV heads than cores each head is on several of them. Heads that the cores do not
split evenly, or an MLP width that they do not divide, are computed in full on every core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ranvier.models.spec import DecoderSpec
from ranvier.neuron_host import BYTES_PER_VALUE, CastType

_BY_ROWS = ("q", "k", "v", "gate", "up", "embed", "head")
_BY_COLUMNS = ("o", "down")

_LARGE_VOCABULARY = 8192
_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreShare:
    """One core's part of a decoder, one of `num_cores`.

    * `heads`, `kv_heads`; `intermediate`: width of the MLP; `vocab`: rows of the vocabulary, its padding included.
    * In elements: `layer_matrices` and `layer_vectors` of all layers; `table`: the embedding, and the head as large
      again unless it `has_tied_head`; `shared_vectors`: the last norm. Vectors are float32.
    """

    num_cores: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    layer_matrices: int
    layer_vectors: int
    table: int
    shared_vectors: int
    has_tied_head: bool

    def stored_bytes(self, cast_type: CastType) -> int:
        """Weights that the core holds, without tables that grow with the sequence."""
        return self.read_bytes(cast_type) + (0 if self.has_tied_head else self.table * BYTES_PER_VALUE[cast_type])

    def read_bytes(self, cast_type: CastType) -> int:
        """Weights that a decode step reads: all but an embedding of which only a few rows are looked up."""
        matrices = (self.layer_matrices + self.table) * BYTES_PER_VALUE[cast_type]
        return matrices + (self.layer_vectors + self.shared_vectors) * _FLOAT32_BYTES


def even_core_counts(spec: DecoderSpec, limit: int) -> tuple[int, ...]:
    """Counts up to `limit` that split heads, KV heads and MLP with nothing computed twice but shared KV heads."""
    inner = spec.mlp.intermediate_size
    return tuple(count for count in range(1, limit + 1) if has_even_heads(spec, count) and inner % count == 0)


def has_even_heads(spec: DecoderSpec, count: int) -> bool:
    """Whether `count` divides the heads, and the KV heads or the other way round."""
    kv_heads = spec.num_kv_heads
    return spec.num_heads % count == 0 and (kv_heads % count == 0 or count % kv_heads == 0)


def uneven_words(spec: DecoderSpec, count: int) -> str:
    """What `count` cores compute in full on each of them, in words; empty where everything is split."""
    parts = []
    if not has_even_heads(spec, count):
        parts.append(f"attention ({spec.num_heads} heads, {spec.num_kv_heads} KV heads)")
    if spec.mlp.intermediate_size % count:
        parts.append(f"the MLP ({spec.mlp.intermediate_size} wide)")
    return " and ".join(parts)


def share_of(spec: DecoderSpec, num_cores: int) -> CoreShare:
    """What one of `num_cores` cores has. Over counts that split evenly, no part of it grows with the count."""
    sizes = _Sizes(spec, num_cores)
    layer = {name: sizes.elements(name, shape) for name, shape in spec.layer_shapes().items()}
    matrices = sum(layer[name] for name, shape in spec.layer_shapes().items() if len(shape) == 2)
    shared = {name: sizes.elements(name, shape) for name, shape in spec.shared_shapes().items()}
    vectors = sum(shared[name] for name, shape in spec.shared_shapes().items() if len(shape) == 1)
    return CoreShare(
        num_cores=num_cores,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        intermediate=sizes.intermediate,
        vocab=sizes.vocab,
        layer_matrices=matrices * spec.num_layers,
        layer_vectors=(sum(layer.values()) - matrices) * spec.num_layers,
        table=shared["embed"],
        shared_vectors=vectors,
        has_tied_head=spec.has_tied_head,
    )


class _Sizes:
    """The split dimensions on one core."""

    def __init__(self, spec: DecoderSpec, num_cores: int) -> None:
        even = num_cores if has_even_heads(spec, num_cores) else 1
        inner = spec.mlp.intermediate_size
        self.heads = spec.num_heads // even
        self.kv_heads = max(1, spec.num_kv_heads // even)
        self.intermediate = inner // num_cores if inner % num_cores == 0 else inner
        self.vocab = padded_vocab(spec.vocab_size, num_cores) // num_cores
        width, kv_width = self.heads * spec.head_dim, self.kv_heads * spec.head_dim
        self._by_name = {"q": width, "k": kv_width, "v": kv_width, "o": width}
        self._by_name |= dict.fromkeys(("gate", "up", "down"), self.intermediate)
        self._by_name |= dict.fromkeys(("embed", "head"), self.vocab)

    def elements(self, name: str, shape: tuple[int, ...]) -> int:
        base, is_bias = name.removesuffix(".bias"), name.endswith(".bias")
        if base in _BY_ROWS:
            return math.prod((self._by_name[base], *shape[1:]))
        if base in _BY_COLUMNS and not is_bias:
            return shape[0] * self._by_name[base]
        return math.prod(shape)


def padded_vocab(vocab_size: int, num_cores: int) -> int:
    """Columns of the logits: the vocabulary, filled up to whole blocks of 512 (32 for small ones) on each core."""
    block = num_cores * (512 if vocab_size >= _LARGE_VOCABULARY else 32)
    return math.ceil(vocab_size / block) * block


def largest_tensor(spec: DecoderSpec) -> int:
    """Elements of the largest weight."""
    every = spec.shared_shapes() | spec.layer_shapes()
    return max(math.prod(shape) for shape in every.values())
