"""Where in a checkpoint a weight of ours stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ranvier.models.weights import Array, Dense, Int4, Int8, Weight, dequantize


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A part of a fused tensor's rows: `start` up to `stop` out of every `every` rows.

    Keys of a tensor that holds query, key and value of each head in turn, 64 rows each: `Rows(64, 128, every=192)`.
    With `every` as large as the tensor it is one range.
    """

    start: int
    stop: int
    every: int

    def of(self, values: Array) -> Array:
        """The rows, copied. The number of rows of `values` must be a multiple of `every`."""
        groups = values.reshape(-1, self.every, *values.shape[1:])
        return np.ascontiguousarray(groups[:, self.start : self.stop]).reshape(-1, *values.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint tensor, or rows of one. `is_transposed` marks matrices stored `[in, out]` (GPT-2's Conv1D)."""

    name: str
    rows: Rows | None = None
    is_transposed: bool = False

    def take(self, stored: Weight) -> Weight:
        """Our weight out of the checkpoint's."""
        if self.is_transposed:
            stored = Dense(np.ascontiguousarray(_values(stored).T))
        return stored if self.rows is None else _with_rows(stored, self.rows)


def _values(weight: Weight) -> Array:
    return weight.values if isinstance(weight, Dense) else dequantize(weight)


def _with_rows(weight: Weight, rows: Rows) -> Weight:
    if isinstance(weight, Dense):
        return Dense(rows.of(weight.values))
    if isinstance(weight, Int8):
        return Int8(rows.of(weight.codes), rows.of(weight.scales))
    return Int4(rows.of(weight.codes), rows.of(weight.scales), rows.of(weight.zeros))
