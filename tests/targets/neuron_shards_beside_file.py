"""Run as a program with several forced host devices: weights from an artifact's shards beside those of a packed file.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python neuron_shards_beside_file.py FOLDER CASE...

`FOLDER/CASE` has a checkpoint. Prints a line of JSON for each case, type and number of cores.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from neuron_helpers import few_buckets, jax, limits  # found through the line above

from ranvier.models import PackedWeights, SafetensorsCheckpoint, WeightPlan, held_weights, spec_of, write_weights
from ranvier.models.packing import DType
from ranvier.models.tensor_file import TensorFile
from ranvier.targets.neuron import NeuronOptions, shapes_of
from ranvier.targets.neuron.shapes import ComputeType
from ranvier.targets.neuron.shards import load_shards, shard_names, write_shards
from ranvier.targets.neuron.weights import is_table, load_weights
from tiny_families import config

TYPES: tuple[tuple[ComputeType, DType], ...] = (
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
    ("float16", "float32"),
    ("float32", "float32"),
)
"""What programs compute in, and the form that the checkpoint is read in."""


def quiet(done: int, total: int) -> None:
    """No progress."""


def bits(array: jax.Array) -> bytes:
    return np.asarray(array).tobytes()


def compared(folder: Path, case: str, types: tuple[ComputeType, DType], num_cores: int) -> dict[str, Any]:
    checkpoint, (compute, held) = SafetensorsCheckpoint(folder), types
    plan = WeightPlan(quantize="none", dtype=held)
    options = NeuronOptions(dtype=compute, num_cores=num_cores, buckets=few_buckets())
    shapes = shapes_of(spec_of(config(case)), limits(), options, jax.devices())
    artifact = folder / f"{compute}-{held}-{num_cores}"
    artifact.mkdir()
    write_shards(shapes, held_weights(checkpoint, plan, quiet), artifact)
    write_weights(checkpoint, plan, folder / "packed", quiet)
    found, expected = load_shards(shapes, artifact), load_weights(shapes, PackedWeights(folder / "packed"))
    names = shard_names(num_cores)
    files = [TensorFile(artifact / name) for name in names]
    return {
        "case": case,
        "cores": num_cores,
        "types": f"{compute} {held}",
        "files": sorted(str(path.relative_to(artifact)) for path in (artifact / "weights").iterdir()),
        "names": list(names),
        "missing": sorted(set(expected) ^ set(found)),
        "different": [name for name in expected if bits(found[name]) != bits(expected[name])],
        "elsewhere": [name for name in expected if found[name].sharding != expected[name].sharding],
        "of_another_type": [name for name in expected if found[name].dtype != expected[name].dtype],
        "held_bytes": sum(array.nbytes for name, array in expected.items() if not is_table(name)),
        "stored_bytes": sum(file.read(name).nbytes for file in files for name in file.names),
        "largest_file": max((artifact / name).stat().st_size for name in names),
        "spread": sum(len(file.names) for file in files[1:]),
    }


def main(folder: str, *cases: str) -> None:
    for case in cases:
        for types in TYPES:
            for num_cores in (1, 2, 4):
                sys.stdout.write(json.dumps(compared(Path(folder) / case, case, types, num_cores)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
