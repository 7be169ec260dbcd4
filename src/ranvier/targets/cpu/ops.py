"""OpenVINO operations in the shapes that its CPU plugin fuses.

Fusions are by pattern: what looks like a detail here (the axis of a split, the order of a product) decides between
one kernel and ten. `tests/targets/test_cpu_graph.py` checks the compiled graph for each of them.
Shape letters: T tokens of all chunks, flat; H heads; K KV heads; E head width; D model width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
from openvino import Type

from ranvier.models.spec import Activation
from ranvier.models.weights import Array, Dense, FloatArray, Int4, Int8, Weight

BLOCK_TOKENS = 32
"""Tokens in one KV block; fixed by the plugin."""

Node = Any
"""A node or an output of one; OpenVINO's Python types do not tell them apart."""


def integers(*values: int) -> Node:
    """A 1-D int64 constant, as shapes and axes want it."""
    return op.constant(np.array(values, np.int64))


def scalar(value: float) -> Node:
    """A float32 scalar constant."""
    return op.constant(np.float32(value))


class Constants:
    """Constants over borrowed memory. Keep the object as long as any model made with it."""

    def __init__(self) -> None:
        self._kept: list[object] = []

    def of(self, values: Array, shape: list[int], element: Type) -> Node:
        """A constant that shares `values`' memory; the plugin repacks matrices into its own layout anyway."""
        tensor = ov.Tensor(values, ov.Shape(shape), element)
        self._kept += [values, tensor]
        return op.constant(tensor, shared_memory=True)

    def dense(self, weight: Dense) -> Node:
        """Float32 values, or bfloat16 ones with the conversion that keeps them compressed."""
        shape = list(weight.shape)
        if weight.values.dtype == np.uint16:
            return op.convert(self.of(weight.values, shape, Type.bf16), "f32")
        return self.of(weight.values, shape, Type.f32)

    def matrix(self, weight: Weight) -> Node:
        """`[out, in]` in float32 semantics, in the form that compiles to a product with compressed weights."""
        if isinstance(weight, Dense):
            return self.dense(weight)
        out, width = weight.shape
        groups = weight.scales.shape[1]
        shape = [out, width] if groups == 1 else [out, groups, width // groups]
        scale_shape = [out, 1] if groups == 1 else [out, groups, 1]
        codes = self.of(weight.codes, shape, Type.i8 if isinstance(weight, Int8) else Type.u4)
        values = op.convert(codes, "f32")
        if isinstance(weight, Int4):
            values = op.subtract(values, self._zeros(weight, scale_shape))
        values = op.multiply(values, self.of(weight.scales, scale_shape, Type.f32))
        return values if groups == 1 else op.reshape(values, integers(out, width), False)

    def _zeros(self, weight: Int4, shape: list[int]) -> Node:
        if weight.zeros.dtype == np.uint8:
            return op.convert(self.of(weight.zeros, shape, Type.u8), "f32")
        return self.of(weight.zeros, shape, Type.f32)


def rms_norm(x_TD: Node, weight_D: FloatArray, eps: float) -> Node:
    """`x / sqrt(mean(x^2) + eps) * weight`; becomes one `RMS`."""
    mean = op.reduce_mean(op.power(x_TD, scalar(2.0)), integers(-1), True)
    inverse = op.divide(scalar(1.0), op.sqrt(op.add(mean, scalar(eps))))
    return op.multiply(op.constant(weight_D), op.multiply(x_TD, inverse))


def layer_norm(x_TD: Node, weight_D: FloatArray, bias_D: FloatArray, eps: float) -> Node:
    """`(x - mean) / sqrt(variance + eps) * weight + bias`; an `MVN` and what follows it."""
    normal = op.mvn(x_TD, integers(-1), True, eps, "INSIDE_SQRT")
    return op.add(op.multiply(normal, op.constant(weight_D)), op.constant(bias_D))


def rope(x: Node, cos: Node, sin: Node, rotary_dim: int, head_dim: int) -> Node:
    """Rotate halves of the first `rotary_dim` of `[T, heads, 1, E]` by `cos`, `sin` of shape `[T, 1, 1, rotary_dim]`.

    Becomes one `RoPE`. The split must name axis 3; with -1 the pattern is not recognised.
    """
    if rotary_dim == head_dim:
        return _rotated(x, cos, sin, rotary_dim)
    parts = op.variadic_split(x, op.constant(np.int64(3)), integers(rotary_dim, head_dim - rotary_dim))
    return op.concat([_rotated(parts.output(0), cos, sin, rotary_dim), parts.output(1)], -1)


def _rotated(x: Node, cos: Node, sin: Node, width: int) -> Node:
    halves = op.variadic_split(x, op.constant(np.int64(3)), integers(width // 2, width // 2))
    rotated = op.concat([op.multiply(halves.output(1), scalar(-1.0)), halves.output(0)], -1)
    return op.add(op.multiply(x, cos), op.multiply(rotated, sin))


def activation(x: Node, kind: Activation) -> Node:
    """One operation for each kind."""
    if kind == "silu":
        return op.swish(x)
    if kind == "relu":
        return op.relu(x)
    return op.gelu(x, "tanh" if kind == "gelu_tanh" else "erf")


def paged_attention(inputs: dict[str, Node], *, kv_heads: int, head_dim: int, scale: float, window: int | None) -> Node:
    """Causal attention of flat queries over the blocks of each sequence; writes the new keys and values in place.

    `inputs` holds `query, key, value, key_cache, value_cache, past_lens, begins, blocks, block_begins, max_context`.
    The operation is experimental: its 28 inputs are those of the OpenVINO release that `pyproject.toml` pins.
    """
    off_i, off_f = op.constant(np.zeros(0, np.int32)), op.constant(np.zeros(0, np.float32))
    zero = op.constant(np.int32(0))
    seen = zero if window is None else op.constant(np.int32(window))
    names = ("query", "key", "value", "key_cache", "value_cache", "past_lens", "begins", "blocks", "block_begins")
    arguments = [inputs[name] for name in names]
    arguments += [scalar(scale), seen, off_f, inputs["max_context"], off_i]  # scale, window, alibi, -, scores
    arguments += [off_i, off_i, off_f, off_f, zero, zero, off_f]  # rotation x3, sparse attention x3, sinks
    arguments += [zero, off_i, off_i, off_i]  # eviction
    arguments += [off_i, op.constant(np.zeros(0, np.uint8)), off_i]  # token types, query bias x2
    node = ov.op._PagedAttentionExtension([_output(argument) for argument in arguments])
    info = node.get_rt_info()
    info["num_k_heads"] = info["num_v_heads"] = kv_heads
    info["k_head_size"] = info["v_head_size"] = head_dim
    return node.output(0)


def _output(value: Node) -> Node:
    return value if isinstance(value, ov.Output) else value.output(0)


def log_sum_exp(logits_RV: Node) -> Node:
    """Natural-log normaliser of each row, `[R, 1]`, computed without overflow."""
    peak = op.reduce_max(logits_RV, integers(-1), True)
    return op.add(op.log(op.reduce_sum(op.exp(op.subtract(logits_RV, peak)), integers(-1), True)), peak)
