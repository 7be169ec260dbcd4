"""Which KV blocks each slot reads and writes.

    slot 0   [ 0  1  2  3 ]          share(0 -> 1, 2 blocks)          slot 0   [ 0  1  2  3 ]
    slot 1   [ 4  5  6  7 ]          ------------------------>        slot 1   [ 0  1  6  7 ]    free: 4 5

Every slot always has a full row of blocks. Sharing gives a slot's own blocks to the free list; writing into a shared
block takes one back. Each reference above a block's first stands for exactly one free block, so there is always one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class BlockTable:
    """Block indices of `num_slots` rows with `blocks_per_slot` entries each; the only owner of the free list."""

    def __init__(self, num_slots: int, blocks_per_slot: int) -> None:
        self._table_SB = np.arange(num_slots * blocks_per_slot, dtype=np.int32).reshape(num_slots, blocks_per_slot)
        self._references = np.ones(num_slots * blocks_per_slot, np.int32)
        self._free: list[int] = []

    def row(self, slot: int, num_blocks: int) -> npt.NDArray[np.int32]:
        """The first `num_blocks` block indices of a slot; a view."""
        return self._table_SB[slot, :num_blocks]

    def share(self, source: int, target: int, num_blocks: int) -> None:
        """Let `target` read the first `num_blocks` blocks of `source`."""
        for index in range(num_blocks):
            block = int(self._table_SB[source, index])
            if int(self._table_SB[target, index]) != block:
                self._references[block] += 1
                self._drop(int(self._table_SB[target, index]))
                self._table_SB[target, index] = block

    def own(self, slot: int, first: int, end: int) -> None:
        """Make the entries `first … end - 1` writable: no other slot reads them."""
        row = self._table_SB[slot, first:end]
        for offset in np.flatnonzero(self._references[row] > 1):
            self._drop(int(row[offset]))
            block = self._free.pop()
            self._references[block] = 1
            row[offset] = block

    def _drop(self, block: int) -> None:
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free.append(block)

    def check(self) -> None:
        """Assert the invariant: references match the table, and free blocks are those without any."""
        counted = np.bincount(self._table_SB.reshape(-1), minlength=len(self._references))
        assert (counted == self._references).all(), "a reference count is off"
        assert sorted(self._free) == np.flatnonzero(counted == 0).tolist(), "the free list is off"
