"""A `DecoderSpec` with its weights as one OpenVINO model over flat tokens.

Inputs, all int32: `ids [T]`, `positions [T]`, `past_lens [Q]`, `begins [Q + 1]`, `blocks [sum]`, `block_begins
[Q + 1]`, `max_context []`, `rows [R]` (tokens whose logits are wanted), where adapters are loaded `adapters [T]` (the
number of each token's, 0 for none), then a key and a value cache for each layer.
Outputs: `logits [R, V]` float32 and their log-sum-exp `[R, 1]`. Q sequences, T tokens of all chunks together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
import openvino.opset13 as op
from openvino import Type

from ranvier.models import Adapter, DecoderSpec, PackedWeights
from ranvier.models.rope import RopeSpec
from ranvier.models.weights import in_memory
from ranvier.targets.cpu import ops
from ranvier.targets.cpu.adapters import ADAPTERS_INPUT, AdapterProducts
from ranvier.targets.cpu.layer_weights import LayerWeights
from ranvier.targets.cpu.ops import Constants, Node
from ranvier.targets.cpu.rotary import RotaryTables

STEP_INPUTS = ("ids", "positions", "past_lens", "begins", "blocks", "block_begins", "max_context", "rows")


def step_inputs(adapters: Sequence[object]) -> tuple[str, ...]:
    """The names of the inputs before the caches, in order."""
    return (*STEP_INPUTS, ADAPTERS_INPUT) if adapters else STEP_INPUTS


def build_decoder(
    spec: DecoderSpec,
    weights: PackedWeights,
    sequence_length: int,
    adapters: Sequence[Adapter] = (),
    *,
    is_bfloat16: bool = False,
) -> tuple[ov.Model, Constants]:
    """The model, and the constants that must outlive it. `sequence_length` bounds the rotary tables.

    `is_bfloat16` says how the adapters' matrices are held; the others are as they were packed.
    """
    return DecoderBuilder(spec, weights, sequence_length, adapters, is_bfloat16).build()


class DecoderBuilder:
    """Builds the model once. Whoever wants more of it than its outputs takes it from a subclass."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: PackedWeights,
        sequence_length: int,
        adapters: Sequence[Adapter] = (),
        is_bfloat16: bool = False,
    ) -> None:
        self._spec = spec
        self._constants = Constants()
        self._weights = weights
        names = step_inputs(adapters)
        self._inputs = {name: _parameter(name, [] if name == "max_context" else [-1]) for name in names}
        added = None
        if adapters:
            chosen_T = self._inputs[ADAPTERS_INPUT]
            added = AdapterProducts(adapters, chosen_T, self._constants, is_bfloat16=is_bfloat16)
        self._layers = LayerWeights(spec, weights, self._constants, added)
        self._caches: list[Node] = []
        self._rotary = RotaryTables(self._inputs["positions"], sequence_length)
        self._block = {
            "pre": self._pre,
            "post": self._post,
            "sandwich": self._sandwich,
            "parallel": self._parallel,
            "parallel_shared": self._parallel,
        }[spec.block]

    def build(self) -> tuple[ov.Model, Constants]:
        """The model, and the constants that must outlive it."""
        spec = self._spec
        # Read while serving, row by row: from a mapped file each new row could cost a page fault, and a file that
        # somebody cuts short would end the process. Other matrices are repacked when the model is compiled.
        table = self._constants.matrix(in_memory(self._weights.read("embed")))
        x_TD = self._embedded(table)
        for layer in range(spec.num_layers):
            x_TD = self._block(x_TD, layer)
        x_RD = op.gather(x_TD, self._inputs["rows"], op.constant(np.int64(0)))
        # The factor on the logits goes onto what is multiplied to get them: D values a row instead of V.
        x_RD = _scaled(self._layers.norm(x_RD, "final_norm"), spec.multipliers.logits)
        head = table if spec.has_tied_head else self._constants.matrix(self._weights.read("head"))
        logits_RV = op.matmul(x_RD, head, False, True)
        outputs = [op.result(logits_RV), op.result(ops.log_sum_exp(logits_RV))]
        return ov.Model(outputs, list(self._inputs.values()) + self._caches, "decoder"), self._constants

    def _embedded(self, table: Node) -> Node:
        first = op.constant(np.int64(0))
        x_TD = _scaled(op.gather(table, self._inputs["ids"], first), self._spec.multipliers.embedding)
        if not self._spec.has_learned_positions:
            return x_TD
        positions = self._constants.matrix(in_memory(self._weights.read("positions")))
        return op.add(x_TD, op.gather(positions, self._inputs["positions"], first))

    def _pre(self, x_TD: Node, layer: int) -> Node:
        prefix = f"layers.{layer}."
        x_TD = self._plus(x_TD, self._attention(self._norm(x_TD, prefix + "attn_norm"), layer))
        return self._plus(x_TD, self._mlp(self._norm(x_TD, prefix + "mlp_norm"), prefix))

    def _post(self, x_TD: Node, layer: int) -> Node:
        prefix = f"layers.{layer}."
        x_TD = self._plus(x_TD, self._norm(self._attention(x_TD, layer), prefix + "attn_post_norm"))
        return self._plus(x_TD, self._norm(self._mlp(x_TD, prefix), prefix + "mlp_post_norm"))

    def _sandwich(self, x_TD: Node, layer: int) -> Node:
        prefix = f"layers.{layer}."
        attended = self._attention(self._norm(x_TD, prefix + "attn_norm"), layer)
        x_TD = self._plus(x_TD, self._norm(attended, prefix + "attn_post_norm"))
        out = self._mlp(self._norm(x_TD, prefix + "mlp_norm"), prefix)
        return self._plus(x_TD, self._norm(out, prefix + "mlp_post_norm"))

    def _parallel(self, x_TD: Node, layer: int) -> Node:
        prefix = f"layers.{layer}."
        h_TD = self._norm(x_TD, prefix + "attn_norm")
        mlp_in = h_TD if self._spec.block == "parallel_shared" else self._norm(x_TD, prefix + "mlp_norm")
        return self._plus(x_TD, op.add(self._attention(h_TD, layer), self._mlp(mlp_in, prefix)))

    def _norm(self, x: Node, name: str) -> Node:
        return self._layers.norm(x, name)

    def _plus(self, x_TD: Node, branch_TD: Node) -> Node:
        return op.add(x_TD, _scaled(branch_TD, self._spec.multipliers.residual))

    def _attention(self, h_TD: Node, layer: int) -> Node:
        spec, prefix, kind = self._spec, f"layers.{layer}.", self._spec.layer(layer)
        query, key, value = self._layers.products(h_TD, prefix, ("q", "k", "v"))
        caches = [_cache(f"{prefix}{name}", spec) for name in ("key_cache", "value_cache")]
        self._caches += caches
        out = ops.paged_attention(
            self._inputs
            | {
                "query": self._heads(query, prefix + "q_norm", spec.num_heads, kind.rope),
                "key": self._heads(key, prefix + "k_norm", spec.num_kv_heads, kind.rope),
                "value": value,
                "key_cache": caches[0],
                "value_cache": caches[1],
            },
            kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            scale=spec.attention.scale,
            window=kind.window,
        )
        return self._layers.products(out, prefix, ("o",))[0]

    def _heads(self, x: Node, norm_name: str, heads: int, rope: RopeSpec | None) -> Node:
        """Queries or keys `[T, heads * E]`, normalized and rotated as the spec asks."""
        width, qk_norm = self._spec.head_dim, self._spec.attention.qk_norm
        if qk_norm == "width":
            x = self._norm(x, norm_name)
        if rope is None and qk_norm != "head":
            return x
        x = op.reshape(x, ops.integers(-1, heads, 1, width), False)
        if qk_norm == "head":
            x = self._norm(x, norm_name)
        if rope is not None:
            x = ops.rope(x, *self._rotary.of(rope), rope.rotary_dim, width)
        return op.reshape(x, ops.integers(-1, heads * width), False)

    def _mlp(self, h_TD: Node, prefix: str) -> Node:
        mlp = self._spec.mlp
        if mlp.is_gated:
            gate, up = self._layers.products(h_TD, prefix, ("gate", "up"))
            inner = op.multiply(ops.activation(gate, mlp.activation), up)
        else:
            inner = ops.activation(self._layers.products(h_TD, prefix, ("up",))[0], mlp.activation)
        return self._layers.products(inner, prefix, ("down",))[0]


def _scaled(x: Node, factor: float) -> Node:
    return x if factor == 1.0 else op.multiply(x, ops.scalar(factor))


def _parameter(name: str, shape: list[int], element: Type = Type.i32) -> Node:
    parameter = op.parameter(shape, element)
    parameter.set_friendly_name(name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _cache(name: str, spec: DecoderSpec) -> Node:
    # The plugin fills in the element type that KV_CACHE_PRECISION asks for.
    return _parameter(name, [-1, spec.num_kv_heads, ops.BLOCK_TOKENS, spec.head_dim], Type.dynamic)
