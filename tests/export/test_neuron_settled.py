"""What is settled before an artifact for Neuron devices is made: options, host, plan, contradictions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_requests import request
from test_settled_limits import config

from fake_neuron import neuron_root
from planned_models import LLAMA_31_8B
from ranvier.artifacts import ExportRequest, ModelSource, NeuronWish
from ranvier.compose.neuron_wish import neuron_wish, without_effect
from ranvier.config import ExportConfig
from ranvier.config.export import load_export_config
from ranvier.core import Limits
from ranvier.errors import ModelError, OptionError
from ranvier.export import compilers, neuron
from ranvier.export.compilers import Compiler, find_compiler
from ranvier.export.neuron import check_request, kept_directory, plan_here, settle
from ranvier.models import DecoderSpec, spec_of

GIB = 2**30


def exported(*argv: str, **environ: str) -> ExportConfig:
    return load_export_config(["--model-id", "m", *argv, "out"], environ, "ranvier export")


# Options


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (
            ("--target=neuron", "--batch-size=2", "--sequence-length=64", "--num-cores=4", "--auto-cast-type=fp16"),
            {},
        ),
        (
            *(("--target=neuron", "--batch_size=2", "--sequence_length=64", "--num_cores", "4"),),
            {"HF_AUTO_CAST_TYPE": "fp16"},
        ),
        (
            ("--batch_size=2", "--sequence_length=64", "--auto_cast_type", "fp16"),
            {"HF_NUM_CORES": "4", "TARGET": "neuron"},
        ),
    ],
    ids=["ours", "optimum", "variables"],
)
def test_options_have_our_names_those_of_optimum_and_variables(argv: tuple[str, ...], environ: dict[str, str]) -> None:
    found = exported(*argv, **environ)
    assert (found.target, found.batch_size, found.sequence_length) == ("neuron", 2, 64)
    assert (found.num_cores, found.auto_cast_type) == (4, "fp16")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"HF_NUM_CORES": "0"}, "environment variable `HF_NUM_CORES` must be a whole number from 1"),
        (
            {"HF_AUTO_CAST_TYPE": "int8"},
            "environment variable `HF_AUTO_CAST_TYPE` must be one of `bf16`, `fp16`, `fp32`",
        ),
    ],
)
def test_a_bad_value_names_the_variable(environ: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        exported(**environ)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("argv", "cast_type"),
    [
        ((), "bf16"),
        (("--dtype", "bfloat16"), "bf16"),
        (("--dtype", "float32"), "fp32"),
        (("--auto-cast-type", "fp16"), "fp16"),
        (("--auto-cast-type", "fp32", "--dtype", "float32"), "fp32"),
    ],
)
def test_the_cast_type_is_what_was_said_or_follows_the_dtype(
    tmp_path: Path, argv: tuple[str, ...], cast_type: str
) -> None:
    wish = neuron_wish(exported("--target=neuron", *argv), tmp_path)
    assert wish is not None and wish.auto_cast_type == cast_type


@pytest.mark.parametrize(("cast_type", "dtype"), [("bf16", "float32"), ("fp32", "bfloat16"), ("fp16", "float32")])
def test_a_cast_type_that_contradicts_the_dtype_is_refused(tmp_path: Path, cast_type: str, dtype: str) -> None:
    with pytest.raises(OptionError) as caught:
        neuron_wish(exported("--target=neuron", "--auto-cast-type", cast_type, "--dtype", dtype), tmp_path)
    assert str(caught.value) == (
        f"`auto_cast_type` is {cast_type} and `dtype` is {dtype}, which contradict each other; leave one of them out"
    )


# The host


def test_other_targets_have_no_wish(tmp_path: Path) -> None:
    assert neuron_wish(exported("--num-cores=2"), tmp_path) is None
    assert neuron_wish(config("--num-cores=2"), tmp_path) is None


def test_an_export_without_a_device_lowers_and_compiles_nothing(tmp_path: Path) -> None:
    wish = NeuronWish(num_cores=2, instance="inf2.xlarge", lnc=1)
    assert (
        neuron_wish(exported("--target=neuron", "--num-cores=2", "--instance=inf2.xlarge", "--lnc=1"), tmp_path) == wish
    )


@pytest.mark.parametrize(
    ("argv", "instance", "compile_for"),
    [
        ((), "inf2.xlarge", "neuron"),
        (("--instance", "trn1.32xlarge"), "trn1.32xlarge", "neuron"),
        (("--instance", "trn2.48xlarge"), "trn2.48xlarge", None),
    ],
)
def test_an_export_with_a_device_compiles_for_what_its_compiler_can(
    tmp_path: Path, argv: tuple[str, ...], instance: str, compile_for: str | None
) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    wish = neuron_wish(exported("--target=neuron", *argv), root)
    assert wish is not None
    assert (wish.instance, wish.lnc, wish.compile_for) == (instance, 1, compile_for)


def test_emulation_compiles_for_the_processor_whatever_the_host_has(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    assert neuron_wish(exported("--target=neuron", "--emulate-neuron"), root) == NeuronWish(compile_for="cpu")
    assert neuron_wish(config("--target=neuron", "--emulate-neuron"), tmp_path) == NeuronWish(compile_for="cpu")


@pytest.mark.parametrize(("devices", "reason"), [(0, "needs a Neuron device: "), (1, "`num_cores` is 4, but ")])
def test_a_server_without_what_it_needs_is_refused_before_it_exports(tmp_path: Path, devices: int, reason: str) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=devices, cores=2) if devices else tmp_path
    with pytest.raises(OptionError) as caught:
        neuron_wish(config("--target=neuron", "--num-cores=4"), root)
    assert reason in str(caught.value)


def test_options_of_neuron_that_were_given_for_another_target_are_said_to_have_no_effect() -> None:
    given = exported("--emulate-neuron", "--num-cores=2", "--chunk-buckets=32", HF_AUTO_CAST_TYPE="bf16")
    assert without_effect(given) == (
        "`num_cores` by flag `--num-cores` has no effect on target cpu",
        "`auto_cast_type` by environment variable `HF_AUTO_CAST_TYPE` has no effect on target cpu",
        "`emulate_neuron` by flag `--emulate-neuron` has no effect on target cpu",
        "`chunk_buckets` by flag `--chunk-buckets` has no effect on target cpu",
    )
    assert without_effect(exported("--target=neuron", "--num-cores=2")) == without_effect(exported()) == ()
    assert without_effect(config("--num-cores=2")) == ("`num_cores` by flag `--num-cores` has no effect on target cpu",)


def test_buckets_are_those_that_were_given_and_the_plan_makes_room_for_them(tmp_path: Path) -> None:
    wish = neuron_wish(exported("--target=neuron", "--prefill-buckets=64,512", "--decode_buckets", "256,512"), tmp_path)
    assert wish is not None and (wish.prefill, wish.chunk, wish.decode) == ((64, 512), (), (256, 512))
    with pytest.raises(OptionError, match="`chunk_buckets` must be whole numbers such as `128,512`. Given: 128,-1"):
        neuron_wish(exported("--target=neuron", "--chunk-buckets=128,-1"), tmp_path)


@pytest.mark.parametrize("option", ["batch_size", "num_cores"])
def test_sizes_that_no_host_has_are_refused_before_anything_is_made(option: str) -> None:
    wish = NeuronWish(num_cores=1025 if option == "num_cores" else 1)
    nothing = ModelSource("checkpoint", Path("nowhere"), "nowhere")
    asked = request(nothing, target="neuron", neuron=wish, batch_size=1025 if option == "batch_size" else 1)
    with pytest.raises(OptionError, match=f"`{option}` must be <= 1024 for target neuron. Given: 1025"):
        check_request(replace(asked, quantize="auto"))


def test_without_a_compiler_a_device_compiles_nothing_and_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = neuron_root(tmp_path, "trn2.48xlarge", devices=1, cores=8)
    monkeypatch.setattr(compilers, "neuron_compiler_version", lambda: None)
    assert find_compiler("neuron", root) is None
    assert "nothing is compiled; pip install jax-neuronx[stable]" in caplog.text


@pytest.mark.parametrize(
    ("memory", "jobs"), [(None, 1), (4 * GIB, 1), (9 * GIB, 1), (10 * GIB, 2), (18 * GIB, 4), (999 * GIB, 8)]
)
def test_the_compiler_of_a_device_runs_as_often_as_memory_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int | None, jobs: int
) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    monkeypatch.setattr(compilers, "neuron_compiler_version", lambda: "neuronx-cc 2.21, libneuronxla 3.0")
    monkeypatch.setattr(compilers, "host_bytes", lambda: memory)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert find_compiler("neuron", root) == Compiler(
        platform="neuron", version="neuronx-cc 2.21, libneuronxla 3.0", target="trn1", lnc=1, jobs=jobs
    )


def test_nothing_to_compile_needs_no_compiler(tmp_path: Path) -> None:
    assert find_compiler(None, tmp_path) is None


# The plan


def wished(instance: str | None, **changes: Any) -> tuple[ExportRequest, NeuronWish]:
    wish = NeuronWish(instance=instance, **{k: v for k, v in changes.items() if k in ("num_cores", "auto_cast_type")})
    limits = {name: changes[name] for name in ("batch_size", "sequence_length") if name in changes}
    source = ModelSource("checkpoint", Path("/nowhere"), "m")
    return request(source, target="neuron", quantize="auto", neuron=wish, **limits), wish


LLAMA: DecoderSpec = spec_of(LLAMA_31_8B)
"""8 billion parameters."""


def test_where_no_instance_is_known_defaults_are_taken() -> None:
    settled = settle(*wished(None), LLAMA, (16, 2048))
    assert (settled.num_cores, settled.plan) == (1, None)
    assert settled.limits == Limits(
        batch_size=16, sequence_length=2048, max_input_tokens=2047, max_batch_prefill_tokens=2048
    )
    assert settled.buckets.decode == (128, 256, 512, 1024, 2048)


def test_the_plan_for_an_instance_chooses_what_is_open() -> None:
    settled = settle(*wished("trn2.48xlarge"), LLAMA, (16, 2048))
    assert settled.plan is not None
    assert settled.num_cores == settled.plan.choice.num_cores > 1
    assert (settled.limits.batch_size, settled.limits.sequence_length) == (32, 4096)
    assert settled.buckets == settled.plan.buckets


def test_what_is_given_goes_into_the_plan() -> None:
    settled = settle(*wished("inf2.48xlarge", num_cores=8, batch_size=3, sequence_length=1000), LLAMA, (3, 1000))
    assert (settled.num_cores, settled.limits.batch_size, settled.limits.sequence_length) == (8, 3, 1000)
    assert settled.buckets.decode == (128, 256, 512, 1024)


def test_a_plan_that_cannot_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(OptionError) as caught:
        settle(*wished("inf2.xlarge", batch_size=64, sequence_length=4096), LLAMA, (64, 4096))
    message = str(caught.value)
    assert message.startswith("`batch_size` 64 x `sequence_length` 4096 ")
    assert "inf2.xlarge" in message
    assert message.count(" GiB") >= 2


def test_more_cores_than_the_instance_has_are_refused() -> None:
    with pytest.raises(OptionError, match="`num_cores` must be <= 2, the NeuronCores of inf2.xlarge"):
        settle(*wished("inf2.xlarge", num_cores=4), LLAMA, (1, 128))


NEURON = Compiler(platform="neuron", version="neuronx-cc 2.21", target="trn1", lnc=1, jobs=8)


def test_compiling_takes_the_memory_of_the_host_that_compiles_and_not_of_the_instance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = settle(*wished("inf2.xlarge", batch_size=1, sequence_length=2048), LLAMA, (1, 2048)).plan
    assert plan is not None
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(neuron, "host_bytes", lambda: 4 * GIB)
    here = plan_here(plan, NEURON)
    assert here is not None
    with pytest.raises(ModelError) as caught:
        here.require_compile()
    assert "of host memory and this host has 4.0 GiB; export on a larger instance" in str(caught.value)

    monkeypatch.setattr(neuron, "host_bytes", lambda: 384 * GIB)
    here = plan_here(plan, NEURON)
    assert here is not None and (here.parallel_compiles or 0) > (plan.parallel_compiles or 0)
    here.require_compile()


def test_emulation_takes_no_compilers_memory() -> None:
    plan = settle(*wished("inf2.xlarge", batch_size=1, sequence_length=128), LLAMA, (1, 128)).plan
    assert plan_here(plan, replace(NEURON, platform="cpu")) is None
    assert plan_here(plan, None) is plan_here(None, NEURON) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantize": "int8"},
            "`quantize` int8 is not served by target neuron, whose programs multiply dense matrices; leave the option "
            "out, and give `--auto-cast-type` bf16 for the smallest weights",
        ),
        (
            {"kv_cache_dtype": "u8"},
            "`kv_cache_dtype` u8 is not served by target neuron, whose cache is held as the model computes; leave the "
            "option out",
        ),
    ],
)
def test_what_no_neuron_artifact_has_is_refused(changes: dict[str, str], message: str) -> None:
    given, _ = wished(None)
    with pytest.raises(OptionError) as caught:
        check_request(replace(given, **changes))
    assert str(caught.value) == message
    check_request(replace(given, quantize="none"))


def test_what_is_compiled_is_kept_beside_the_artifact_by_what_was_asked_for(tmp_path: Path) -> None:
    source = ModelSource("checkpoint", tmp_path, "m")
    one, other = (replace(wished(None, num_cores=cores)[0], source=source) for cores in (1, 2))
    kept = {kept_directory(tmp_path / "out", each.key()) for each in (one, other, replace(one, dtype="bfloat16"), one)}
    assert len(kept) == 3
    assert {path.parent for path in kept} == {tmp_path}
    assert all(path.name.startswith(".compiling-") for path in kept)
