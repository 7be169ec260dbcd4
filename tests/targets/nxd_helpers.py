"""Stand-ins of optimum-neuron artifacts for a tiny model, and programs on them. Needs JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from neuron_helpers import pack

from ranvier.core import SamplingParams
from ranvier.models import spec_of
from ranvier.targets.nxd import CoreRegistry, FakeNxdModel, NxdShape
from ranvier.targets.nxd.model import GREEDY_ROW
from tiny_families import VOCAB, config

GREEDY = SamplingParams()


def shape(**changes: Any) -> NxdShape:
    given: dict[str, Any] = {"batch_size": 4, "sequence_length": 64, "max_context_length": 48, "vocab_size": VOCAB}
    return NxdShape(**given | changes)


def fake(folder: Path, of: NxdShape, cores: CoreRegistry | None = None) -> FakeNxdModel:
    """The weights are packed once for each folder."""
    packed = folder / "packed"
    return FakeNxdModel(spec_of(config("llama")), packed if packed.exists() else pack(folder, "llama"), of, cores)


def ints(*rows: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(rows, np.int64)


def greedy(num_rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([GREEDY_ROW] * num_rows, np.float32)


def prefill(model: FakeNxdModel, slot: int, ids: list[int]) -> Any:
    """One prompt, as it is, through the context graph."""
    return model.forward(ints(ids), ints(list(range(len(ids)))), np.array([slot]), greedy(1))


def step(model: FakeNxdModel, rows: dict[int, tuple[int, int]]) -> Any:
    """The decode graph for `slot: (token, position)` in this order, and for no other slot."""
    ids, positions = (np.array([[row[part]] for row in rows.values()], np.int64) for part in (0, 1))
    return model.forward(ids, positions, np.array(list(rows)), greedy(len(rows)))
