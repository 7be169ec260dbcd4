"""What loaded LoRA adapters add to a layer's products, for a step whose tokens use different ones.

All adapters' A matrices are stacked along the rank, and all B matrices beside each other:

    added [T, out] = ((x [T, in] A [R, in]^T) * mask [T, R]) B [out, R]^T

`mask` is 1 in the columns of a token's own adapter and 0 elsewhere, so a token without adapter gets exactly 0 added and
one with an adapter gets what it would get if no other were loaded. Two thin products a group of matrices, whatever the
mix; their cost grows with the sum of all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openvino.opset13 as op

from ranvier.models.adapters import Adapter, LowRank
from ranvier.models.weights import Array, Dense, FloatArray, to_bfloat16_bits
from ranvier.targets.cpu.ops import Constants, Node

ADAPTERS_INPUT = "adapters"


@dataclass(frozen=True, slots=True)
class _Piece:
    """One A with the number of its adapter, and the B of each matrix of a product that goes with it."""

    number: int
    down: FloatArray
    ups: dict[str, FloatArray]


class AdapterProducts:
    """The adapters of one model. `chosen_T` is the input: for each flat token its adapter's number from 1, 0 for none.

    `is_bfloat16`: matrices are held in bfloat16, else in float32.
    """

    def __init__(self, adapters: Sequence[Adapter], chosen_T: Node, constants: Constants, *, is_bfloat16: bool) -> None:
        self._adapters, self._chosen, self._constants = adapters, chosen_T, constants
        self._is_bfloat16 = is_bfloat16
        self._masks: dict[tuple[int, ...], Node] = {}

    def added_to(self, product: Node, x: Node, prefix: str, sizes: dict[str, int]) -> Node:
        """`product` of `x` with the matrices `prefix + part`, `sizes` rows each, with what adapters add to them."""
        pieces = self._pieces(prefix, sizes)
        if not pieces:
            return product
        down = np.concatenate([piece.down for piece in pieces])
        up = np.concatenate([_stacked(piece, sizes) for piece in pieces], axis=1)
        owners = tuple(piece.number for piece in pieces for _ in range(len(piece.down)))
        narrow_TR = op.multiply(op.matmul(x, self._matrix(down), False, True), self._mask(owners))
        return op.add(product, op.matmul(narrow_TR, self._matrix(up), False, True))

    def _pieces(self, prefix: str, sizes: dict[str, int]) -> list[_Piece]:
        pieces: list[_Piece] = []
        for number, adapter in enumerate(self._adapters, 1):
            found = {part: adapter.parts[prefix + part] for part in sizes if prefix + part in adapter.parts}
            pieces += _shared(number, found)
        return pieces

    def _mask(self, owners: tuple[int, ...]) -> Node:
        """`[T, R]`; one lookup a step for all products whose ranks belong to the same adapters."""
        if owners not in self._masks:
            table = np.arange(len(self._adapters) + 1)[:, None] == np.array(owners)
            rows = op.gather(op.constant(table.astype(np.float32)), self._chosen, op.constant(np.int64(0)))
            self._masks[owners] = rows
        return self._masks[owners]

    def _matrix(self, values: FloatArray) -> Node:
        held: Array = np.ascontiguousarray(values)
        return self._constants.matrix(Dense(to_bfloat16_bits(held) if self._is_bfloat16 else held))


def _shared(number: int, found: dict[str, LowRank]) -> list[_Piece]:
    """One piece for each A: matrices that the checkpoint fuses have it in common."""
    pieces: dict[int, _Piece] = {}
    for part, low_rank in found.items():
        piece = pieces.setdefault(id(low_rank.down), _Piece(number, low_rank.down, {}))
        piece.ups[part] = low_rank.up
    return list(pieces.values())


def _stacked(piece: _Piece, sizes: dict[str, int]) -> FloatArray:
    """The piece's B for all matrices of the product, `[sum of sizes, r]`; 0 for those it is not for."""
    rank = len(piece.down)
    return np.concatenate(
        [piece.ups[part] if part in piece.ups else np.zeros((size, rank), np.float32) for part, size in sizes.items()]
    )
