"""Cosines and sines of the positions in a step."""

from __future__ import annotations

import numpy as np
import openvino.opset13 as op

from ranvier.models.rope import RopeSpec
from ranvier.models.weights import Array
from ranvier.targets.cpu.ops import Node, integers


class RotaryTables:
    """For each rotary embedding of a decoder one table of all positions and one lookup a step, however many layers."""

    def __init__(self, positions_T: Node, sequence_length: int) -> None:
        self._positions, self._length = positions_T, sequence_length
        self._made: dict[RopeSpec, tuple[Node, Node]] = {}

    def of(self, rope: RopeSpec) -> tuple[Node, Node]:
        """Cosines and sines, each `[T, 1, 1, rotary_dim]`."""
        if rope not in self._made:
            angles = np.outer(np.arange(self._length), rope.inverse_frequencies(self._length))
            angles = np.concatenate([angles, angles], axis=-1)
            self._made[rope] = self._rows(np.cos(angles) * rope.magnitude), self._rows(np.sin(angles) * rope.magnitude)
        return self._made[rope]

    def _rows(self, table: Array) -> Node:
        rows = op.gather(op.constant(table.astype(np.float32)), self._positions, op.constant(np.int64(0)))
        return op.unsqueeze(rows, integers(1, 2))
