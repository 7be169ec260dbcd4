"""`DecoderSpec`: what a decoder-only transformer is, in numbers. Every graph builder reads it and nothing else.

Our weight names, as `DecoderSpec.shared_shapes` and `DecoderSpec.layer_shapes` list them with their shapes:

    embed, positions, final_norm, head                       once
    layers.N.q, .k, .v, .o, .gate, .up, .down                matrices `[out, in]`; `.bias` beside those that have one
    layers.N.attn_norm, .mlp_norm                            before the attention, before the MLP
    layers.N.attn_post_norm, .mlp_post_norm                  after them, before the residual is added
    layers.N.q_norm, .k_norm                                 of queries and keys
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ranvier.models.rope import RopeSpec

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
"""`gelu` is the exact one (error function), `gelu_tanh` its usual approximation."""

Block = Literal["pre", "post", "sandwich", "parallel", "parallel_shared"]
"""How a layer adds its two branches to the residual stream x; n is a norm.

    pre              x += attn(n(x));        x += mlp(n(x))
    post             x += n(attn(x));        x += n(mlp(x))
    sandwich         x += n(attn(n(x)));     x += n(mlp(n(x)))
    parallel         x += attn(n(x)) + mlp(n'(x))
    parallel_shared  x += attn(n(x)) + mlp(n(x)), one norm for both
"""

Shapes = dict[str, tuple[int, ...]]

_BLOCK_NORMS: dict[Block, tuple[str, ...]] = {
    "pre": ("attn_norm", "mlp_norm"),
    "post": ("attn_post_norm", "mlp_post_norm"),
    "sandwich": ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm"),
    "parallel": ("attn_norm", "mlp_norm"),
    "parallel_shared": ("attn_norm",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSpec:
    """`rms` divides by the root mean square; `layer` also subtracts the mean and has biases.

    `offset` is added to the weights as stored (Gemma keeps them around 0).
    """

    kind: Literal["rms", "layer"]
    eps: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """What the attention of all layers has in common.

    Scores are multiplied by `scale`. `qk_norm` normalizes queries and keys before they are rotated: each `head` with
    one weight of `head_dim`, or the whole `width` of all heads at once.
    """

    scale: float
    qk_norm: Literal["head", "width"] | None = None
    has_qkv_bias: bool = False
    has_out_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What may differ from layer to layer.

    A token sees `window` tokens, itself included; None is all before it. `rope` is None where positions are not
    rotated.
    """

    rope: RopeSpec | None
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """`down(activation(gate(x)) * up(x))` where gated, else `down(activation(up(x)))`."""

    intermediate_size: int
    activation: Activation = "silu"
    is_gated: bool = True
    has_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipliers:
    """Factors on the embedding, on what each branch adds to the residual stream, and on the logits."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder-only transformer.

    Sizes in elements. `num_heads` is a multiple of `num_kv_heads`. `max_positions` is the longest sequence the model
    was made for. With `has_tied_head` the output projection is the embedding table. `layers` is a pattern that
    repeats until there are `num_layers`; see `layer`. With `has_learned_positions` a table of `max_positions` rows is
    added to the embeddings.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    block: Block
    norm: NormSpec
    attention: AttentionSpec
    layers: tuple[LayerSpec, ...]
    mlp: MlpSpec
    has_tied_head: bool
    has_learned_positions: bool = False
    multipliers: Multipliers = Multipliers()

    def layer(self, index: int) -> LayerSpec:
        """What layer `index` (from 0) is."""
        return self.layers[index % len(self.layers)]

    def shared_shapes(self) -> Shapes:
        """Shape of each weight that the decoder has once, by our name."""
        shapes: Shapes = {"embed": (self.vocab_size, self.hidden_size)}
        if self.has_learned_positions:
            shapes["positions"] = (self.max_positions, self.hidden_size)
        shapes |= self._norm_shapes("final_norm", self.hidden_size)
        return shapes if self.has_tied_head else shapes | {"head": (self.vocab_size, self.hidden_size)}

    def layer_shapes(self) -> Shapes:
        """Shape of each weight of one layer, by our name without `layers.N.`; the same in all layers."""
        shapes: Shapes = {}
        for name in _BLOCK_NORMS[self.block]:
            shapes |= self._norm_shapes(name, self.hidden_size)
        return shapes | self._attention_shapes() | self._mlp_shapes()

    def _attention_shapes(self) -> Shapes:
        hidden, width, kv_width = self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes: Shapes = {"q": (width, hidden), "k": (kv_width, hidden), "v": (kv_width, hidden), "o": (hidden, width)}
        if self.attention.has_qkv_bias:
            shapes |= {"q.bias": (width,), "k.bias": (kv_width,), "v.bias": (kv_width,)}
        if self.attention.has_out_bias:
            shapes["o.bias"] = (hidden,)
        if self.attention.qk_norm is not None:
            widths = (self.head_dim,) * 2 if self.attention.qk_norm == "head" else (width, kv_width)
            shapes |= self._norm_shapes("q_norm", widths[0]) | self._norm_shapes("k_norm", widths[1])
        return shapes

    def _mlp_shapes(self) -> Shapes:
        hidden, inner = self.hidden_size, self.mlp.intermediate_size
        shapes: Shapes = {"up": (inner, hidden), "down": (hidden, inner)}
        if self.mlp.is_gated:
            shapes = {"gate": (inner, hidden), **shapes}
        if self.mlp.has_bias:
            shapes |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
        return shapes

    def _norm_shapes(self, name: str, width: int) -> Shapes:
        weight: Shapes = {name: (width,)}
        return weight | {f"{name}.bias": (width,)} if self.norm.kind == "layer" else weight

    @property
    def num_parameters(self) -> int:
        """Trainable values, the tied head counted once."""
        return _count(self.shared_shapes()) + self.num_layers * _count(self.layer_shapes())

    def kv_bytes_per_token(self, bytes_per_value: float) -> int:
        """KV cache bytes that one token takes over all layers."""
        return int(2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value)


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
