"""Choosing tokens on the device: the semantics of `ranvier.sampling.HostSampler`, in static shapes."""

from ranvier.targets.neuron.sampling.choose import Choices, choose, log_probabilities
from ranvier.targets.neuron.sampling.rows import INT_COLUMNS, REAL_COLUMNS, RowArrays, packed_mask, packed_rows

__all__ = [
    "INT_COLUMNS",
    "REAL_COLUMNS",
    "Choices",
    "RowArrays",
    "choose",
    "log_probabilities",
    "packed_mask",
    "packed_rows",
]
