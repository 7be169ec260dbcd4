"""How much each input column of each product matters: the mean square of what arrives there on a sample text.

A few channels of a decoder carry most of the energy of its hidden states: in SmolLM2-135M one of 576 has up to 80 % of
it. Which ones cannot be told from the weights, so a model runs once over a short text before its matrices are rounded
to 4 bits. The idea is that of AWQ (https://arxiv.org/abs/2306.00978) and of llama.cpp's importance matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import openvino as ov
import openvino.opset13 as op

from ranvier.core import Chunk, Limits, StepPlan
from ranvier.models import DecoderSpec, PackedWeights
from ranvier.models.weights import FloatArray
from ranvier.targets.cpu import ops
from ranvier.targets.cpu.graph import DecoderBuilder
from ranvier.targets.cpu.layer_weights import LayerWeights
from ranvier.targets.cpu.ops import Constants, Node
from ranvier.targets.cpu.programs import CpuOptions, compile_cpu

WINDOW = 512
"""Tokens that see each other; more would only cost time."""


def measure_importance(spec: DecoderSpec, weights_path: Path, token_ids: Sequence[int]) -> dict[str, FloatArray]:
    """For each matrix of a layer by our name the sum over windows of the mean square of its inputs, `[in]`.

    Only the proportions within a matrix mean anything. `weights_path` is a packed weights file; int8 tells the same
    as float32. Raises `SetupError` as `load_cpu` does.
    """
    if not token_ids:
        return {}
    num_windows = -(-len(token_ids) // min(WINDOW, spec.max_positions))
    length = len(token_ids) // num_windows
    limits = Limits(batch_size=1, sequence_length=length, max_input_tokens=length, max_batch_prefill_tokens=length)
    options = CpuOptions(dtype="auto", kv_cache_dtype="auto", num_threads=0)
    builder = _Observed(spec, PackedWeights(weights_path), length)
    programs = compile_cpu(spec, builder.build, limits, options)
    totals: dict[str, FloatArray] = {}
    for first in range(0, num_windows * length, length):
        programs.run(StepPlan((Chunk(0, token_ids[first : first + length], 0, wants_logits=False),), (), ()))
        for name, values in zip(builder.names, programs.further_outputs(), strict=True):
            totals[name] = totals[name] + values if name in totals else values
    programs.release()
    return totals


class _Observed(DecoderBuilder):
    """Builds the same model and remembers what each product of a layer multiplies."""

    def __init__(self, spec: DecoderSpec, weights: PackedWeights, sequence_length: int) -> None:
        super().__init__(spec, weights, sequence_length)
        self._watched = _WatchedWeights(spec, weights, self._constants)
        self._layers = self._watched

    @property
    def names(self) -> tuple[str, ...]:
        """Our name of the matrix that each further output is about."""
        return tuple(self._watched.inputs)

    def build(self) -> tuple[ov.Model, Constants]:
        """The model with a further output `[in]` for each product: the mean square of its input's columns."""
        model, constants = super().build()
        squares = [op.power(x_TD, ops.scalar(2.0)) for x_TD in self._watched.inputs.values()]
        model.add_results([op.result(op.reduce_mean(square, ops.integers(0), False)) for square in squares])
        return model, constants


class _WatchedWeights(LayerWeights):
    def __init__(self, spec: DecoderSpec, weights: PackedWeights, constants: Constants) -> None:
        super().__init__(spec, weights, constants)
        self.inputs: dict[str, Node] = {}

    def products(self, x: Node, prefix: str, parts: tuple[str, ...]) -> list[Node]:
        self.inputs |= {prefix + part: x for part in parts}
        return super().products(x, prefix, parts)
