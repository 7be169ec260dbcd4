"""A decoder spread over 2, 4 and 8 cores gives what it gives on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from neuron_helpers import few_buckets, jax, limits, pack

from ranvier.errors import OptionError
from ranvier.models import spec_of
from ranvier.targets.neuron import NeuronOptions, ProgramSet, shapes_of
from ranvier.targets.neuron.sharding import over_cores, single_core
from tiny_families import config

SCRIPT = Path(__file__).with_name("neuron_sharded.py")


def run(folder: Path, case: str, cores: list[int]) -> list[dict[str, Any]]:
    """One outcome for each number of cores, from a process of its own: devices are counted when JAX starts."""
    pack(folder, case)
    variables = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(SCRIPT), str(folder), case, *map(str, cores)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("case", "cores", "spread", "heads"),
    [
        # 4 query heads, 2 KV heads: copies on four cores, all on each of eight. The norms of queries and keys go over
        # the width of all heads.
        ("olmo2", [4, 8], ["heads, mlp, vocabulary", "mlp, vocabulary"], [1, 2]),
        # A single KV head, layer norms, and a head that is the embedding.
        ("falcon", [2], ["heads, mlp, vocabulary"], [1]),
    ],
)
def test_cores_together_give_what_one_gives(
    tmp_path: Path, case: str, cores: list[int], spread: list[str], heads: list[int]
) -> None:
    alone, *together = run(tmp_path, case, [1, *cores])
    assert [each["spread"] for each in together] == spread
    assert [each["heads_on_a_core"] for each in together] == heads
    for each, count in zip(together, cores, strict=True):
        assert each["exported_for"] == count
        assert each["tokens"] == alone["tokens"]
        assert each["logprobs"] == pytest.approx(alone["logprobs"], abs=1e-4)
        assert each["scores"] == pytest.approx(alone["scores"], abs=1e-4)


def test_a_single_core_has_no_mesh() -> None:
    assert single_core().num_cores == 1
    assert single_core().sharding("cores") is None
    assert single_core().kv_copies(spec_of(config("llama"))) == 1


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_each_weight_is_spread_as_the_table_says(case: str) -> None:
    spec = spec_of(config(case))
    parallel = replace(over_cores(4, spec), has_spread_heads=True, has_spread_mlp=True)
    spread = {"q": 0, "k": 0, "v": 0, "gate": 0, "up": 0, "embed": 0, "head": 0, "o": 1, "down": 1}
    biased = {f"{name}.bias": 0 for name in ("q", "k", "v", "gate", "up")}
    for name in spec.layer_shapes() | spec.shared_shapes():
        full = name if name in spec.shared_shapes() else f"layers.1.{name}"
        assert parallel.spread_axis(full) == (spread | biased).get(name), name


@pytest.mark.parametrize("num_cores", [2, 32])
def test_programs_are_lowered_for_more_cores_than_the_host_has(num_cores: int) -> None:
    options = NeuronOptions(num_cores=num_cores, buckets=few_buckets())
    for program in ProgramSet(shapes_of(spec_of(config("qwen3")), limits(), options)).all():
        exported = jax.export.export(program.function, platforms=["neuron"])(*program.arguments)
        state = program.arguments[len(program.held) - 1] if program.has_state else ()
        assert exported.nr_devices == num_cores
        assert exported.mlir_module().count("tf.aliasing_output") == len(jax.tree.leaves(state)), program.name


@pytest.mark.parametrize(("num_cores", "bound"), [(0, ">= 1. Given: 0"), (-1, ">= 1. Given: -1")])
def test_too_few_cores_are_refused(num_cores: int, bound: str) -> None:
    with pytest.raises(OptionError, match=f"`num_cores` must be {bound}"):
        shapes_of(spec_of(config("llama")), limits(), NeuronOptions(num_cores=num_cores))
