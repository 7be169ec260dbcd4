"""What fits into a core."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ranvier.models.spec import DecoderSpec
from ranvier.neuron_host import CastType
from ranvier.planner.buckets import LARGEST_PREFILL
from ranvier.planner.instances import Instance
from ranvier.planner.memory import CoreMemory, Shape, core_memory
from ranvier.planner.sharding import share_of

MOST_SLOTS = 1024
"""Where the search for a larger batch ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One model on one instance type in one cast type, cores still open.

    `largest_prefill`: tokens of one prefill call at most.
    """

    spec: DecoderSpec
    instance: Instance
    lnc: int
    cast_type: CastType
    largest_prefill: int = LARGEST_PREFILL

    @property
    def capacity(self) -> int:
        """Bytes of one logical core."""
        return self.instance.chip.core_memory(self.lnc)

    @property
    def num_cores(self) -> int:
        """Logical cores of the instance."""
        return self.instance.num_cores(self.lnc)

    def memory(self, num_cores: int, batch_size: int, sequence_length: int) -> CoreMemory:
        """Bytes of one of `num_cores` cores."""
        shape = Shape(
            batch_size=batch_size,
            sequence_length=sequence_length,
            largest_prefill=self.largest_prefill,
            cast_type=self.cast_type,
        )
        return core_memory(self.spec, share_of(self.spec, num_cores), shape)

    def fits(self, num_cores: int, batch_size: int, sequence_length: int) -> bool:
        """Whether that much is in a core's memory."""
        return self.memory(num_cores, batch_size, sequence_length).total <= self.capacity

    def largest_batch(self, num_cores: int, sequence_length: int) -> int:
        """Most slots of that length, at most `MOST_SLOTS`; 0 where not one fits."""
        return _largest(MOST_SLOTS, lambda batch: self.fits(num_cores, batch, sequence_length))

    def largest_sequence(self, num_cores: int, batch_size: int) -> int:
        """Longest sequence of that many slots, at most what the model was made for; 0 where not one token fits."""
        return _largest(self.spec.max_positions, lambda length: self.fits(num_cores, batch_size, length))


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 0 to `limit` that fits, when what fits stays fitting for smaller ones."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
