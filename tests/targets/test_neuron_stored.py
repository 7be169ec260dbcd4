"""Programs on disk do what they were lowered from, in the same memory, and are refused when they are not whole."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from neuron_helpers import decode, few_buckets, jax, limits, pack, prompt

from ranvier.core import Limits, SamplingParams
from ranvier.errors import ArtifactError
from ranvier.models import PackedWeights, spec_of
from ranvier.targets.neuron import NeuronOptions, NeuronPrograms, ProgramSet, Shapes, shapes_of
from ranvier.targets.neuron.shapes import ComputeType
from ranvier.targets.neuron.stored import StoredPrograms, program_file, write_program
from ranvier.targets.neuron.weights import load_weights
from tiny_families import IDS, config

SCRIPT = Path(__file__).with_name("neuron_stored_beside_plain.py")


@pytest.mark.parametrize(
    ("case", "dtype", "num_cores", "left_out"),
    # Those that sample take long to compile, and run on one core below.
    [("gpt2", "bfloat16", 1, ["choose", "choose_masked", "choose_first"]), ("qwen2", "float32", 2, [])],
)
def test_every_program_gives_what_it_was_lowered_from_gives(
    tmp_path: Path, case: str, dtype: str, num_cores: int, left_out: list[str]
) -> None:
    variables = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_cores}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(SCRIPT), str(tmp_path), case, dtype, str(num_cores), *left_out]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    programs = [json.loads(line) for line in done.stdout.splitlines()]

    assert len(programs) == 11 - len(left_out)
    for each in programs:
        assert each["different"] == [], each
        assert each["num_results"] > 0
        # The state, and nothing else, comes back in its own memory.
        assert all(gone == each["has_state"] for gone in each["gone"]), each
        assert each["aliased"] == (len(each["gone"]) if each["has_state"] else 0), each


# Steps


def shapes(dtype: ComputeType = "float32", case: str = "llama", served: Limits | None = None) -> Shapes:
    options = NeuronOptions(dtype=dtype, num_top=2, buckets=few_buckets())
    return shapes_of(spec_of(config(case)), served or limits(), options, jax.devices())


def loaded(folder: Path) -> NeuronPrograms:
    its = shapes()
    for program in ProgramSet(its).all():
        write_program(program, folder)
    weights = load_weights(its, PackedWeights(pack(folder, "llama")))
    return NeuronPrograms(its, weights, StoredPrograms(folder, jax.devices()[0]))


def served(programs: NeuronPrograms) -> list[int]:
    """Tokens of two requests, sampled and greedy."""
    sampled = SamplingParams(do_sample=True, temperature=1.1, top_p=0.9, seed=2, repetition_penalty=1.2)
    first = prompt(programs, 0, IDS[:40]).choices[0]
    second = prompt(programs, 2, IDS[:40], sampled).choices[0]
    assert first is not None and second is not None
    histories = {0: [*IDS[:40], first.token_id], 2: [*IDS[:40], second.token_id]}
    for _ in range(3):
        for slot, token in decode(programs, histories, 40).items():
            histories[slot].append(token)
    programs.check()
    return histories[0][40:] + histories[2][40:]


def test_nothing_is_traced_or_compiled_once_programs_are_warm_and_tokens_are_those_as_traced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    programs = loaded(tmp_path)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
        programs.warm_up()
        compiled = [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]
        caplog.clear()
        tokens = served(programs)
        again = [record.getMessage() for record in caplog.records]
    assert len(compiled) >= 11
    assert again == []

    its = shapes()
    assert tokens == served(NeuronPrograms(its, load_weights(its, PackedWeights(tmp_path / "packed"))))


# Files


def path_of(folder: Path, name: str = "share") -> Path:
    return folder / program_file(name)


def written(folder: Path, its: Shapes, *names: str) -> None:
    programs = ProgramSet(its)
    for name in names or ("share",):
        write_program(programs.named(name), folder)


def refusal(folder: Path, its: Shapes, name: str = "share") -> str:
    with pytest.raises(ArtifactError) as caught:
        StoredPrograms(folder, jax.devices()[0]).function(ProgramSet(its).named(name))
    return str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 1000, -33, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    its = shapes()
    written(tmp_path, its)
    path = path_of(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(tmp_path, its) == (
        f"{path}: damaged, or not the program `share` of an artifact; export the model again"
    )


def test_a_bit_that_flipped_anywhere_is_refused(tmp_path: Path) -> None:
    its = shapes()
    written(tmp_path, its)
    path = path_of(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert "damaged, or not the program `share`" in refusal(tmp_path, its)


def test_a_program_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    its = shapes()
    written(tmp_path, its, "prefill_32", "chunk_32")
    # They take the same arrays.
    path_of(tmp_path, "prefill_32").replace(path_of(tmp_path, "chunk_32"))
    assert "damaged, or not the program `chunk_32`" in refusal(tmp_path, its, "chunk_32")


def test_a_program_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, shapes()) == (
        f"cannot read {path_of(tmp_path)}: No such file or directory; export the model again"
    )


def test_a_program_of_a_form_that_the_library_does_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_new(data: bytearray) -> None:
        raise ValueError("Serialized version 99\nmore")

    its = shapes()
    written(tmp_path, its)
    monkeypatch.setattr(jax.export, "deserialize", too_new)
    assert refusal(tmp_path, its) == (
        f"{path_of(tmp_path)}: not a program that JAX {jax.__version__} reads (Serialized version 99); export it again"
    )


@pytest.mark.parametrize(
    ("other", "name", "difference"),
    [
        (shapes(served=limits(num_slots=3)), "share", "float32[4, 2, 96, 16] and not float32[3, 2, 96, 16]"),
        (shapes("bfloat16"), "decode_96", "float32[96, 64] and not bfloat16[96, 64]"),
        (shapes(case="llama_biases"), "prefill_32", " and not float32[64]"),
        (shapes(case="gpt2"), "choose_greedy", " and not "),
    ],
    ids=["slots", "type", "biases", "norms"],
)
def test_a_program_for_other_arrays_is_refused_with_what_differs(
    tmp_path: Path, other: Shapes, name: str, difference: str
) -> None:
    written(tmp_path, shapes(), name)
    message = refusal(tmp_path, other, name)
    assert message.startswith(f"{path_of(tmp_path, name)}: takes other arrays than this version gives (")
    assert difference in message
    assert message.endswith("; export it again")


def test_what_other_tools_read_is_a_serialized_export_for_neuron(tmp_path: Path) -> None:
    written(tmp_path, shapes(), "decode_96")
    exported = jax.export.deserialize(bytearray(path_of(tmp_path, "decode_96").read_bytes()))
    assert exported.platforms == ("neuron",)
    assert exported.fun_name == "decode"
    assert "stablehlo.dot_general" in exported.mlir_module()
