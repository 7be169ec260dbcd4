"""Wiring of exported Neuron models: what is read, what contradicts it, and how a checkpoint becomes one."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nxd_configs import MODEL, configured, exported

from fake_neuron import neuron_root
from neuron_models import write_neuron_model
from ranvier.artifacts import ModelSource, found_in
from ranvier.artifacts.optimum import read_optimum_config
from ranvier.artifacts.optimum.registry import SERVED_COMPILER, SERVED_OPTIMUM
from ranvier.compose import nxd
from ranvier.compose.nxd import (
    checkpoint_of,
    load_nxd_programs,
    settle_optimum_limits,
)
from ranvier.compose.nxd_directory import optimum_artifact, with_texts
from ranvier.compose.nxd_export import check_nxd_host, engine_versions
from ranvier.compose.plan import limits_of, open_any, prepare_artifact, with_target
from ranvier.errors import ArtifactError, ModelError, OptionError, SetupError
from ranvier.neuron_host import acquire
from ranvier.targets.nxd import installed_versions, shape_of
from ranvier.targets.nxd.versions import PYTHON_PINS
from tiny_checkpoints import write_checkpoint

pytestmark = pytest.mark.usefixtures("own_places")


# What an exported directory says of itself


def test_an_exported_directory_is_an_artifact_with_the_limits_of_its_config(tmp_path: Path) -> None:
    manifest = exported(tmp_path, torch_dtype="bfloat16").manifest
    assert (manifest.target, manifest.model_id, manifest.dtype) == ("nxd", "mine", "bfloat16")
    assert (manifest.batch_size, manifest.sequence_length) == (2, 64)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_an_export_without_its_texts_is_refused_with_the_file_that_is_missing(tmp_path: Path, name: str) -> None:
    directory = exported(tmp_path).directory
    (directory / name).unlink()
    with pytest.raises(ArtifactError, match=f"`{name}` is missing beside neuron_config.json; copy it"):
        optimum_artifact(ModelSource("optimum", directory, "mine"))


def test_the_launcher_serves_it_without_any_other_option(tmp_path: Path) -> None:
    directory = exported(tmp_path, sequence_length=128, max_context_length=96).directory
    config = configured(tmp_path, "--model-id", str(directory))
    artifact = prepare_artifact(config)
    assert artifact.directory == directory
    assert with_target(config, artifact).target == "nxd"
    limits = limits_of(config, artifact)
    assert (limits.batch_size, limits.sequence_length) == (2, 128)
    assert (limits.max_input_tokens, limits.max_batch_prefill_tokens) == (96, 96)
    assert open_any(directory, config) == artifact


def test_another_target_than_its_own_is_refused(tmp_path: Path) -> None:
    config = configured(tmp_path, TARGET="neuron")
    with pytest.raises(ArtifactError, match="`target` is neuron by environment variable `TARGET`, but the artifact "):
        with_target(config, exported(tmp_path))


def test_families_that_only_optimum_neuron_can_run_have_limits_too(tmp_path: Path) -> None:
    artifact = exported(tmp_path)
    (artifact.directory / "config.json").write_text(json.dumps({"model_type": "mixtral", "vocab_size": 288}))
    assert settle_optimum_limits(configured(tmp_path), artifact).batch_size == 2


# What was asked for


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"MAX_BATCH_SIZE": "3"}, "`MAX_BATCH_SIZE` is 3, and `batch_size` of the exported model is 2; lower it to 2"),
        ({"HF_BATCH_SIZE": "3"}, "`HF_BATCH_SIZE` is 3, and `batch_size` of the exported model is 2"),
        (
            {"MAX_TOTAL_TOKENS": "65"},
            "`MAX_TOTAL_TOKENS` is 65, and `sequence_length` of the exported model is 64; lower",
        ),
        ({"HF_SEQUENCE_LENGTH": "65"}, "`HF_SEQUENCE_LENGTH` is 65, and `sequence_length` of the exported model is 64"),
        ({"MAX_INPUT_TOKENS": "49"}, "`MAX_INPUT_TOKENS` is 49, and `max_context_length` of the exported model is 48"),
        ({"MAX_INPUT_LENGTH": "49"}, "`MAX_INPUT_LENGTH` is 49, and `max_context_length` of the exported model is 48"),
        ({"MAX_INPUT_TOKENS": "64"}, "`MAX_INPUT_TOKENS` is 64, and `sequence_length` of the exported model is 64"),
        ({"HF_NUM_CORES": "1"}, "`HF_NUM_CORES` is 1, and `tp_degree` of the exported model is 2; use 2"),
        ({"HF_NUM_CORES": "4"}, "`HF_NUM_CORES` is 4, and `tp_degree` of the exported model is 2; use 2"),
        ({"HF_AUTO_CAST_TYPE": "bf16"}, "`HF_AUTO_CAST_TYPE` is bf16, and `torch_dtype` of the exported model is fp32"),
        (
            {"DTYPE": "bfloat16"},
            "variable `DTYPE` is bfloat16, and `dtype` of the exported model is float32",
        ),
        ({"QUANTIZE": "int8"}, "variable `QUANTIZE` is int8, and `quantize` of the exported model is none"),
        ({"KV_CACHE_DTYPE": "u8"}, "`KV_CACHE_DTYPE` is u8, and `kv_cache_dtype` of the exported model is float32"),
        ({"MAX_TOTAL_TOKENS": "1"}, "`MAX_TOTAL_TOKENS` must be > 1: a prompt and a token after it. Given: 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_what_contradicts_the_export_is_refused_with_both_values_and_where_it_was_said(
    tmp_path: Path, given: dict[str, str], message: str
) -> None:
    artifact = exported(tmp_path, max_context_length=48)
    with pytest.raises((ArtifactError, OptionError)) as caught:
        settle_optimum_limits(configured(tmp_path, **given), artifact)
    assert message in str(caught.value)


def test_a_flag_is_named_as_it_was_written(tmp_path: Path) -> None:
    config = configured(tmp_path, "--max-input-length", "49", MAX_BATCH_SIZE="2")
    with pytest.raises(ArtifactError, match=r"^flag `--max-input-length` is 49, and `max_context_length` of the exp"):
        settle_optimum_limits(config, exported(tmp_path, max_context_length=48))


def test_less_than_was_exported_is_what_is_served(tmp_path: Path) -> None:
    config = configured(tmp_path, MAX_BATCH_SIZE="1", MAX_TOTAL_TOKENS="40", MAX_INPUT_TOKENS="30")
    limits = settle_optimum_limits(config, exported(tmp_path))
    assert (limits.batch_size, limits.sequence_length, limits.max_input_tokens) == (1, 40, 30)
    assert limits.max_batch_prefill_tokens == 30


def test_a_shorter_sequence_alone_leaves_room_for_a_token_after_the_prompt(tmp_path: Path) -> None:
    limits = settle_optimum_limits(configured(tmp_path, MAX_TOTAL_TOKENS="32"), exported(tmp_path))
    assert (limits.sequence_length, limits.max_input_tokens) == (32, 31)


def test_what_says_the_same_as_the_export_is_accepted(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        *("--dtype", "float32", "--quantize", "none", "--kv-cache-dtype", "float32"),
        HF_NUM_CORES="2",
        HF_AUTO_CAST_TYPE="float32",
        MAX_BATCH_SIZE="2",
        MAX_TOTAL_TOKENS="64",
        MAX_INPUT_TOKENS="63",
    )
    assert settle_optimum_limits(config, exported(tmp_path)).max_input_tokens == 63


def test_a_step_must_have_room_for_the_longest_prompt(tmp_path: Path) -> None:
    artifact = exported(tmp_path)
    with pytest.raises(OptionError, match=r"`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: 62 a"):
        settle_optimum_limits(configured(tmp_path, MAX_BATCH_PREFILL_TOKENS="62"), artifact)
    shorter = configured(tmp_path, MAX_BATCH_PREFILL_TOKENS="62", MAX_INPUT_TOKENS="40")
    assert settle_optimum_limits(shorter, artifact).max_batch_prefill_tokens == 62


def test_a_step_must_have_room_for_two_chunks_where_prompts_come_in_chunks(tmp_path: Path) -> None:
    artifact = exported(tmp_path, prefill_chunk_size=16)
    assert settle_optimum_limits(configured(tmp_path), artifact).max_batch_prefill_tokens == 32
    with pytest.raises(OptionError, match=r"`MAX_BATCH_PREFILL_TOKENS` is 31, and must be >= 32: `prefill_chunk_size`"):
        settle_optimum_limits(configured(tmp_path, MAX_BATCH_PREFILL_TOKENS="31"), artifact)
    assert settle_optimum_limits(configured(tmp_path, MAX_BATCH_PREFILL_TOKENS="48"), artifact).max_input_tokens == 63


# The host


def test_a_host_with_too_few_cores_is_told_how_many_devices_to_expose(tmp_path: Path) -> None:
    root = neuron_root(tmp_path / "root", "inf2.24xlarge", devices=6, cores=2, mapped=[0])
    artifact = exported(tmp_path, tp_degree=8)
    with pytest.raises(ArtifactError) as caught:
        settle_optimum_limits(configured(tmp_path, emulates=False), artifact, root)
    assert str(caught.value) == (
        "`tp_degree` of the exported model is 8 NeuronCores, and what this process can use is 2; take a host with 4 "
        "Neuron devices, or expose 4 devices to the container: --device=/dev/neuron0 --device=/dev/neuron1 "
        "--device=/dev/neuron2 --device=/dev/neuron3"
    )


def test_a_host_without_a_device_is_told_so_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"needs a Neuron device: .* --device=/dev/neuron0"):
        settle_optimum_limits(configured(tmp_path, emulates=False), exported(tmp_path), tmp_path)


def test_cores_that_a_variable_hides_are_no_reason_for_more_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = neuron_root(tmp_path / "root", "inf2.24xlarge", devices=6, cores=2)
    monkeypatch.setenv("NEURON_RT_NUM_CORES", "2")
    with pytest.raises(OptionError, match=r"`NEURON_RT_NUM_CORES` gives this process 2; raise it or unset it"):
        settle_optimum_limits(configured(tmp_path, emulates=False), exported(tmp_path, tp_degree=4), root)


def test_another_chip_than_the_exports_is_refused(tmp_path: Path) -> None:
    root = neuron_root(tmp_path / "root", "trn2.48xlarge", devices=1, cores=8)
    with pytest.raises(ArtifactError, match="this host is trn2, and `target` of the exported model is trn1"):
        settle_optimum_limits(configured(tmp_path, emulates=False), exported(tmp_path), root)


def test_enough_cores_of_the_right_chip_are_accepted(tmp_path: Path) -> None:
    root = neuron_root(tmp_path / "root", "inf2.xlarge", devices=1, cores=2)
    assert settle_optimum_limits(configured(tmp_path, emulates=False), exported(tmp_path), root).batch_size == 2


def test_versions_that_differ_are_refused_before_the_libraries_are_imported(tmp_path: Path) -> None:
    root = neuron_root(tmp_path / "root", "inf2.xlarge", devices=1, cores=2)
    config = configured(tmp_path, emulates=False)
    with pytest.raises(SetupError, match=r"`neuronx-cc` must be 2\.21.*The container of `docker/Dockerfile.nxd` has"):
        load_nxd_programs(config, exported(tmp_path), root)
    assert not {"torch", "optimum.neuron"} & set(sys.modules)


def test_a_checkpoint_needs_a_device_before_its_cache_is_asked(tmp_path: Path) -> None:
    config = configured(tmp_path, HF_NUM_CORES="4", emulates=False)
    with pytest.raises(OptionError, match="needs a Neuron device"):
        check_nxd_host(config, tmp_path)
    root = neuron_root(tmp_path / "root", "inf2.xlarge", devices=1, cores=2)
    with pytest.raises(OptionError, match="`num_cores` is 4, .* --device=/dev/neuron0 --device=/dev/neuron1"):
        check_nxd_host(config, root)
    check_nxd_host(configured(tmp_path), tmp_path)


def test_the_environment_of_the_engine_is_the_one_whose_versions_count(tmp_path: Path) -> None:
    root = neuron_root(tmp_path / "root", "inf2.xlarge", devices=1, cores=2)
    config = configured(tmp_path, emulates=False)
    with pytest.raises(SetupError, match=r"The container of `docker/Dockerfile.nxd` has them all"):
        check_nxd_host(config, root)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps({**PYTHON_PINS, 'python': '3.11.9'})}'\n")
    python.chmod(0o755)
    check_nxd_host(replace(config, engine_python=str(python)), root)
    assert engine_versions(sys.executable) == installed_versions()
    python.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named ranvier' >&2\nexit 1\n")
    with pytest.raises(SetupError, match="cannot run the engine: ModuleNotFoundError: .*; install Ranvier there too"):
        check_nxd_host(replace(config, engine_python=str(python)), root)


def test_exports_are_served_with_the_versions_that_the_cache_is_asked_for() -> None:
    assert (PYTHON_PINS["neuronx-cc"], PYTHON_PINS["optimum-neuron"]) == (SERVED_COMPILER, SERVED_OPTIMUM)


class LoadedModel:
    """What `load_optimum` gives, as far as a warm-up needs it."""

    def __init__(self, directory: Path) -> None:
        self.shape = shape_of(json.loads((directory / "neuron_config.json").read_text()), MODEL.vocab_size)
        self.details: dict[str, str] = {}
        self.widths: list[int] = []

    def forward(self, input_ids: Any, position_ids: Any, seq_ids: Any, sampling_params: Any) -> Any:
        self.widths.append(input_ids.shape[1])
        return np.zeros(len(input_ids), np.int32)


def test_cores_that_are_still_taken_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[LoadedModel] = []
    pauses: list[float] = []

    def load(directory: Path) -> LoadedModel:
        if len(pauses) < 2:
            raise RuntimeError("nrt_init failed, err: NRT_RESOURCE (4): Logical Neuron Core(s) not available")
        loaded.append(LoadedModel(directory))
        return loaded[-1]

    monkeypatch.setattr(nxd, "load_optimum", load)
    monkeypatch.setattr(nxd, "acquire", partial(acquire, pause=pauses.append))
    root = neuron_root(tmp_path / "root", "inf2.xlarge", devices=1, cores=2)
    artifact = exported(tmp_path, on_device_sampling=True)
    programs = load_nxd_programs(configured(tmp_path, emulates=False), artifact, root)
    assert len(pauses) == 2 and len(loaded) == 1
    assert loaded[0].widths == [2, 1], "each graph runs once before anybody is served"
    assert programs.details["sampling"] == "device"


def test_a_cache_that_this_host_cannot_emulate_is_refused_with_the_numbers(tmp_path: Path) -> None:
    artifact = exported(tmp_path, batch_size=10**9, max_batch_size=10**9, sequence_length=256, max_context_length=256)
    with pytest.raises(ArtifactError, match=r"`batch_size` 1000000000 x `sequence_length` 256 takes \d+\.\d GiB"):
        nxd.load_nxd_programs(configured(tmp_path), artifact)


def test_no_more_cores_are_taken_than_the_model_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nxd, "load_optimum", LoadedModel)
    root = neuron_root(tmp_path / "root", "inf2.24xlarge", devices=6, cores=2)
    load_nxd_programs(configured(tmp_path, emulates=False), exported(tmp_path, on_device_sampling=True), root)
    assert os.environ["NEURON_RT_NUM_CORES"] == "2"


def test_an_error_of_the_library_that_is_not_about_cores_goes_through_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(directory: Path) -> LoadedModel:
        raise RuntimeError("NEFF version mismatch")

    monkeypatch.setattr(nxd, "load_optimum", load)
    monkeypatch.setattr(nxd, "acquire", partial(acquire, pause=lambda seconds: pytest.fail("waited")))
    root = neuron_root(tmp_path / "root", "inf2.xlarge", devices=1, cores=2)
    with pytest.raises(RuntimeError, match="NEFF version mismatch"):
        load_nxd_programs(configured(tmp_path, emulates=False), exported(tmp_path), root)


# The weights of an export


def test_weights_beside_the_export_are_its_checkpoint(tmp_path: Path) -> None:
    directory = write_neuron_model(tmp_path / "model", MODEL, with_weights=True, checkpoint_id="org/elsewhere")
    assert checkpoint_of(directory, read_optimum_config(directory), None).path == directory


def test_else_they_are_where_the_export_says(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", MODEL)
    directory = exported(tmp_path, checkpoint_id=str(checkpoint)).directory
    found = checkpoint_of(directory, read_optimum_config(directory), None)
    assert (found.kind, found.path) == ("checkpoint", checkpoint)


@pytest.mark.parametrize(
    ("checkpoint_id", "message"),
    [
        (None, "has no `checkpoint_id`; put the checkpoint's \\*.safetensors beside it"),
        ("/nowhere/at/all", "`checkpoint_id` of its neuron_config.json is /nowhere/at/all: .*no such file"),
        ("itself", "`checkpoint_id` of its neuron_config.json is .*, which is no checkpoint; put"),
    ],
)
def test_weights_that_are_nowhere_are_asked_for_by_name(
    tmp_path: Path, checkpoint_id: str | None, message: str
) -> None:
    place = str(tmp_path / "model") if checkpoint_id == "itself" else checkpoint_id
    directory = exported(tmp_path, checkpoint_id=place).directory
    with pytest.raises(ModelError, match=message):
        checkpoint_of(directory, read_optimum_config(directory), None)


# Texts that an export lacks


def without_tokenizer(tmp_path: Path, checkpoint_id: str | None) -> ModelSource:
    directory = exported(tmp_path, checkpoint_id=checkpoint_id).directory
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    (directory / "generation_config.json").write_text('{"eos_token_id": 7}')
    return found_in(directory, str(directory))


def test_a_tokenizer_that_an_export_lacks_is_taken_from_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", MODEL)
    source = without_tokenizer(tmp_path, str(checkpoint))
    config = configured(tmp_path, "--model-id", str(source.path))
    artifact = prepare_artifact(config)
    names = ("tokenizer.json", "tokenizer_config.json")
    assert [(artifact.directory / name).read_bytes() for name in names] == [
        (checkpoint / name).read_bytes() for name in names
    ]
    # What the export has is its own.
    assert json.loads((artifact.directory / "generation_config.json").read_text()) == {"eos_token_id": 7}
    assert (artifact.directory / "model.pt").read_bytes() == b"graphs"
    assert artifact.manifest.model_id == str(source.path)
    assert open_any(artifact.directory, config) == artifact
    assert prepare_artifact(config) == artifact
    assert not (source.path / "tokenizer.json").exists()


def test_an_export_with_a_tokenizer_is_served_where_it_is(tmp_path: Path) -> None:
    source = found_in(exported(tmp_path).directory, "mine")
    assert with_texts(configured(tmp_path), source) == source
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("checkpoint_id", "reason"),
    [
        (None, "which has no `checkpoint_id` either; copy it from the checkpoint"),
        ("/nowhere", "cannot be taken from the checkpoint that was exported: .*/nowhere"),
        ("itself", "cannot be taken from the checkpoint that was exported: .* has no `tokenizer.json`; put one beside"),
    ],
)
def test_a_tokenizer_that_is_nowhere_is_asked_for(tmp_path: Path, checkpoint_id: str | None, reason: str) -> None:
    source = without_tokenizer(tmp_path, str(tmp_path / "model") if checkpoint_id == "itself" else checkpoint_id)
    with pytest.raises(ArtifactError, match=f"`tokenizer.json` is missing beside neuron_config.json, .*{reason}"):
        prepare_artifact(configured(tmp_path, "--model-id", str(source.path)))
