"""A `DecoderSpec` with its weights as one OpenVINO model over flat tokens.

Inputs, all int32: `ids [T]`, `positions [T]`, `past_lens [Q]`, `begins [Q + 1]`, `blocks [sum]`, `block_begins
[Q + 1]`, `max_context []`, `rows [R]` (tokens whose logits are wanted), then a key and a value cache for each layer.
Outputs: `logits [R, V]` float32 and their log-sum-exp `[R, 1]`. Q sequences, T tokens of all chunks together.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino.opset13 as op
from openvino import Type

from ranvier.models import DecoderSpec, PackedWeights
from ranvier.models.weights import Array, FloatArray, concat_rows, dequantize, in_memory
from ranvier.targets.cpu import ops
from ranvier.targets.cpu.ops import Constants, Node

STEP_INPUTS = ("ids", "positions", "past_lens", "begins", "blocks", "block_begins", "max_context", "rows")


def build_decoder(spec: DecoderSpec, weights: PackedWeights, sequence_length: int) -> tuple[ov.Model, Constants]:
    """The model, and the constants that must outlive it. `sequence_length` bounds the rotary tables."""
    return _Builder(spec, weights, sequence_length).build()


class _Builder:
    def __init__(self, spec: DecoderSpec, weights: PackedWeights, sequence_length: int) -> None:
        self._spec, self._weights = spec, weights
        self._constants = Constants()
        self._inputs = {name: _parameter(name, [] if name == "max_context" else [-1]) for name in STEP_INPUTS}
        self._caches: list[Node] = []
        self._cos, self._sin = self._rotary_tables(sequence_length)

    def build(self) -> tuple[ov.Model, Constants]:
        spec = self._spec
        # Read while serving, row by row: from a mapped file each new row could cost a page fault, and a file that
        # somebody cuts short would end the process. Other matrices are repacked when the model is compiled.
        table = self._constants.matrix(in_memory(self._weights.read("embed")))
        x_TD = op.gather(table, self._inputs["ids"], op.constant(np.int64(0)))
        for layer in range(spec.num_layers):
            x_TD = self._layer(x_TD, f"layers.{layer}.")
        x_RD = op.gather(x_TD, self._inputs["rows"], op.constant(np.int64(0)))
        x_RD = self._norm(x_RD, "final_norm")
        head = table if spec.has_tied_head else self._constants.matrix(self._weights.read("head"))
        logits_RV = op.matmul(x_RD, head, False, True)
        outputs = [op.result(logits_RV), op.result(ops.log_sum_exp(logits_RV))]
        return ov.Model(outputs, list(self._inputs.values()) + self._caches, "decoder"), self._constants

    def _layer(self, x_TD: Node, prefix: str) -> Node:
        x_TD = op.add(x_TD, self._attention(self._norm(x_TD, prefix + "attn_norm"), prefix))
        return op.add(x_TD, self._mlp(self._norm(x_TD, prefix + "mlp_norm"), prefix))

    def _attention(self, h_TD: Node, prefix: str) -> Node:
        spec, width = self._spec, self._spec.head_dim
        query, key, value = self._products(h_TD, prefix, ("q", "k", "v"))
        caches = [_cache(f"{prefix}{name}", spec.num_kv_heads, width) for name in ("key_cache", "value_cache")]
        self._caches += caches
        out = ops.paged_attention(
            self._inputs
            | {
                "query": ops.rope(query, spec.num_heads, width, self._cos, self._sin),
                "key": ops.rope(key, spec.num_kv_heads, width, self._cos, self._sin),
                "value": value,
                "key_cache": caches[0],
                "value_cache": caches[1],
            },
            heads=spec.num_heads,
            kv_heads=spec.num_kv_heads,
            head_dim=width,
        )
        return self._products(out, prefix, ("o",))[0]

    def _mlp(self, h_TD: Node, prefix: str) -> Node:
        gate, up = self._products(h_TD, prefix, ("gate", "up"))
        return self._products(op.multiply(op.swish(gate), up), prefix, ("down",))[0]

    def _products(self, x: Node, prefix: str, parts: tuple[str, ...]) -> list[Node]:
        """`x` times each matrix, as one product where they are held alike: fewer, larger kernels."""
        weights = [self._weights.read(prefix + part) for part in parts]
        joined = concat_rows(weights) if len(parts) > 1 else weights[0]
        if joined is None:
            outputs = [op.matmul(x, self._constants.matrix(weight), False, True) for weight in weights]
        elif len(parts) == 1:
            outputs = [op.matmul(x, self._constants.matrix(joined), False, True)]
        else:
            product = op.matmul(x, self._constants.matrix(joined), False, True)
            sizes = ops.integers(*(weight.shape[0] for weight in weights))
            outputs = list(op.variadic_split(product, op.constant(np.int64(1)), sizes).outputs())
        return [self._with_bias(out, prefix + part) for out, part in zip(outputs, parts, strict=True)]

    def _with_bias(self, x: Node, name: str) -> Node:
        has_bias = self._spec.has_attention_bias if name[-1] in "qkvo" else self._spec.has_mlp_bias
        return op.add(x, op.constant(self._vector(f"{name}.bias")[None])) if has_bias else x

    def _norm(self, x: Node, name: str) -> Node:
        return ops.rms_norm(x, self._vector(name), self._spec.norm_eps)

    def _vector(self, name: str) -> FloatArray:
        return dequantize(self._weights.read(name))

    def _rotary_tables(self, sequence_length: int) -> tuple[Node, Node]:
        angles = np.outer(np.arange(sequence_length), self._spec.rope.inverse_frequencies(self._spec.head_dim))
        angles = np.concatenate([angles, angles], axis=-1)
        return self._rows_at(np.cos(angles)), self._rows_at(np.sin(angles))

    def _rows_at(self, table: Array) -> Node:
        rows = op.gather(op.constant(table.astype(np.float32)), self._inputs["positions"], op.constant(np.int64(0)))
        return op.unsqueeze(rows, ops.integers(1, 2))


def _parameter(name: str, shape: list[int], element: Type = Type.i32) -> Node:
    parameter = op.parameter(shape, element)
    parameter.set_friendly_name(name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _cache(name: str, kv_heads: int, head_dim: int) -> Node:
    # The plugin fills in the element type that KV_CACHE_PRECISION asks for.
    return _parameter(name, [-1, kv_heads, ops.BLOCK_TOKENS, head_dim], Type.dynamic)
