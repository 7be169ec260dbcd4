"""Products and norms with a layer's packed weights."""

from __future__ import annotations

import numpy as np
import openvino.opset13 as op

from ranvier.models import DecoderSpec, PackedWeights
from ranvier.models.weights import FloatArray, concat_rows, dequantize
from ranvier.targets.cpu import ops
from ranvier.targets.cpu.adapters import AdapterProducts
from ranvier.targets.cpu.ops import Constants, Node


class LayerWeights:
    """Looks weights up by our names and puts them into the operations that use them."""

    def __init__(
        self, spec: DecoderSpec, weights: PackedWeights, constants: Constants, adapters: AdapterProducts | None = None
    ) -> None:
        self._spec, self._weights, self._constants = spec, weights, constants
        self._adapters = adapters
        self._biased = frozenset(name for name in spec.layer_shapes() if name.endswith(".bias"))

    def products(self, x: Node, prefix: str, parts: tuple[str, ...]) -> list[Node]:
        """`x` times each matrix, as one product where they are held alike: fewer, larger kernels."""
        weights = [self._weights.read(prefix + part) for part in parts]
        joined = concat_rows(weights) if len(parts) > 1 else weights[0]
        if joined is None:
            return [self.products(x, prefix, (part,))[0] for part in parts]
        product = self._with_bias(op.matmul(x, self._constants.matrix(joined), False, True), prefix, parts)
        if self._adapters is not None:
            rows = {part: weight.shape[0] for part, weight in zip(parts, weights, strict=True)}
            product = self._adapters.added_to(product, x, prefix, rows)
        if len(parts) == 1:
            return [product]
        sizes = ops.integers(*(weight.shape[0] for weight in weights))
        return list(op.variadic_split(product, op.constant(np.int64(1)), sizes).outputs())

    def _with_bias(self, product: Node, prefix: str, parts: tuple[str, ...]) -> Node:
        """The biases on the whole product, before it is split: there they become a part of it."""
        names = [f"{part}.bias" for part in parts]
        if not self._biased.intersection(names):
            return product
        return op.add(product, op.constant(np.concatenate([self._vector(prefix + name) for name in names])[None]))

    def norm(self, x: Node, name: str) -> Node:
        """`x` normalized over its last axis with the weights of that full name."""
        norm = self._spec.norm
        weight = self._vector(name) + np.float32(norm.offset)
        if norm.kind == "rms":
            return ops.rms_norm(x, weight, norm.eps)
        return ops.layer_norm(x, weight, self._vector(f"{name}.bias"), norm.eps)

    def _vector(self, name: str) -> FloatArray:
        return dequantize(self._weights.read(name))
