"""Weights of an artifact, as its cores hold them: the same as from a packed file, stored once, refused when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neuron_helpers import few_buckets, jax, limits

from ranvier.errors import ModelError
from ranvier.models import SafetensorsCheckpoint, WeightPlan, held_weights, spec_of
from ranvier.models.tensor_file import TensorFile, TensorWriter
from ranvier.targets.neuron import NeuronOptions, Shapes, shapes_of
from ranvier.targets.neuron.shapes import ComputeType
from ranvier.targets.neuron.shards import load_shards, shard_names, write_shards
from tiny_checkpoints import write_safetensors
from tiny_families import config, weights

SCRIPT = Path(__file__).with_name("neuron_shards_beside_file.py")
# Biases and KV heads that are copied for four cores; transposed and fused weights with learned positions; one KV head,
# whose program parts are not all spread.
CASES = ("qwen2", "gpt2", "falcon", "llama_llama3")
WHOLE = "weights/all_cores.safetensors"


def write_checkpoint(folder: Path, case: str, **changes: np.ndarray[Any, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(case)), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", weights(case) | changes)
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """From a process of its own: devices are counted when JAX starts."""
    folder = tmp_path_factory.mktemp("shards")
    for case in CASES:
        write_checkpoint(folder / case, case)
    variables = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(SCRIPT), str(folder), *CASES]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(CASES) * 4 * 3
    return lines


def test_weights_are_those_of_a_packed_file_bit_for_bit(compared: list[dict[str, Any]]) -> None:
    for each in compared:
        wrong = {kind: each[kind] for kind in ("missing", "different", "elsewhere", "of_another_type") if each[kind]}
        assert wrong == {}, (each["case"], each["types"], each["cores"])


def test_nothing_is_stored_twice(compared: list[dict[str, Any]]) -> None:
    for each in compared:
        assert each["stored_bytes"] == each["held_bytes"], (each["case"], each["types"], each["cores"])


def test_each_core_has_a_file_of_its_own(compared: list[dict[str, Any]]) -> None:
    for each in compared:
        count = each["cores"]
        own = [f"weights/core_0000{core}_of_0000{count}.safetensors" for core in range(count)] if count > 1 else []
        assert each["names"] == each["files"] == [WHOLE, *own]
        assert (each["spread"] > 0) == (count > 1)


def test_half_the_type_is_half_the_file(compared: list[dict[str, Any]]) -> None:
    sizes = {
        (each["types"], each["cores"]): each["largest_file"] for each in compared if each["case"] == "llama_llama3"
    }
    for cores in (1, 2, 4):
        half, whole = sizes["bfloat16 bfloat16", cores], sizes["float32 float32", cores]
        assert 0.45 * whole < half < 0.65 * whole
    assert sizes["float32 float32", 2] < 0.6 * sizes["float32 float32", 1]


# What is refused


def shapes(dtype: ComputeType = "float32", num_cores: int = 1) -> Shapes:
    options = NeuronOptions(dtype=dtype, num_cores=num_cores, buckets=few_buckets())
    return shapes_of(spec_of(config("llama")), limits(), options, None if num_cores > 1 else jax.devices())


def shards(folder: Path, its: Shapes, **changes: np.ndarray[Any, Any]) -> Path:
    """An artifact's weights."""
    source = SafetensorsCheckpoint(write_checkpoint(folder / "checkpoint", "llama", **changes))
    (folder / "artifact").mkdir()
    plan = WeightPlan(quantize="none", dtype="float32")
    write_shards(its, held_weights(source, plan, lambda done, total: None), folder / "artifact")
    return folder / "artifact"


def refusal(its: Shapes, directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_shards(its, directory)
    return str(caught.value)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [65520.0, -1e30, np.inf, np.nan])
@pytest.mark.parametrize("num_cores", [1, 2])
def test_a_value_beyond_float16_is_refused_by_name(tmp_path: Path, value: float, num_cores: int) -> None:
    up = weights("llama")[UP].copy()
    up[5, 7] = value
    with pytest.raises(ModelError) as caught:
        shards(tmp_path, shapes("float16", num_cores), **{UP: up})
    assert str(caught.value) == (
        "tensor `layers.1.up` has values beyond the range of float16 (65504), or not finite; export with "
        "`--auto-cast-type` bf16"
    )


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65504.0), ("bfloat16", 1e30), ("float32", 1e30)])
def test_a_value_that_the_type_has_is_taken(tmp_path: Path, dtype: ComputeType, value: float) -> None:
    up = weights("llama")[UP].copy()
    up[5, 7] = value
    held = load_shards(shapes(dtype), shards(tmp_path, shapes(dtype), **{UP: up}))["layers.1.up"]
    assert float(held[5, 7]) == pytest.approx(value, rel=2**-8)


def test_norms_may_be_beyond_float16_since_they_are_held_in_float32(tmp_path: Path) -> None:
    norm = np.full(64, 1e30, np.float32)
    directory = shards(tmp_path, shapes("float16"), **{"model.norm.weight": norm})
    assert np.array_equal(load_shards(shapes("float16"), directory)["final_norm"], norm)


@pytest.mark.parametrize("number", range(3))
def test_a_missing_file_is_refused_with_its_path(tmp_path: Path, number: int) -> None:
    its = shapes(num_cores=2)
    directory = shards(tmp_path, its)
    path = directory / shard_names(2)[number]
    path.unlink()
    assert refusal(its, directory) == f"cannot read {path}: No such file or directory"


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    its = shapes()
    path = shards(tmp_path, its) / WHOLE
    path.write_bytes(path.read_bytes()[:kept])
    assert "all_cores.safetensors: " in refusal(its, tmp_path / "artifact")
    assert "cut short" in refusal(its, tmp_path / "artifact")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    its = shapes()
    path = shards(tmp_path, its) / WHOLE
    path.write_bytes(b"\x40\0\0\0\0\0\0\0" + b"x" * 100)
    assert "all_cores.safetensors: the safetensors header is not a JSON object" in refusal(its, tmp_path / "artifact")


def rewrite(path: Path, **changes: np.ndarray[Any, Any] | None) -> None:
    """The file again with tensors changed, or left out where None."""
    file = TensorFile(path)
    held = {name.replace("__", "."): values for name, values in changes.items()}
    tensors = {name: file.load(name) for name in file.names} | held
    with TensorWriter(path, len(tensors)) as writer:
        for name, values in tensors.items():
            if values is not None:
                writer.add(name, values)


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    its = shapes()
    path = shards(tmp_path, its) / WHOLE
    rewrite(path, layers__1__up=None)
    assert refusal(its, path.parents[1]) == f"{path}: tensor `layers.1.up` is missing; export the model again"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.zeros((96, 32), np.float32), "float32[96, 32]"),
        (np.zeros((96, 64), np.float16), "float16[96, 64]"),
        (np.zeros((96, 64), np.uint16), "uint16[96, 64]"),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_refused(tmp_path: Path, values: np.ndarray[Any, Any], found: str) -> None:
    its = shapes()
    path = shards(tmp_path, its) / WHOLE
    rewrite(path, layers__1__up=values)
    assert refusal(its, path.parents[1]) == (
        f"{path}: tensor `layers.1.up` is {found} and the programs take float32[96, 64]; export the model again"
    )
