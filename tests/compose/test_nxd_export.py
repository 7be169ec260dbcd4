"""A checkpoint on target nxd: asked of the cache, exported as an entry has it, and found again."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from nxd_configs import MODEL, configured

from fake_neuron import neuron_root
from neuron_models import neuron_document, registry_files, write_files
from ranvier.artifacts import ModelSource
from ranvier.artifacts.optimum import parse_optimum_config, read_optimum_config
from ranvier.compose.nxd import (
    cache_query,
)
from ranvier.compose.nxd_export import config_document, export_arguments, export_from_cache, run_command
from ranvier.compose.plan import export_artifact, limits_of, prepare_artifact
from ranvier.config import load_export_config
from ranvier.errors import CompileError, ModelError, OptionError, SetupError
from tiny_checkpoints import write_checkpoint

pytestmark = pytest.mark.usefixtures("own_places")


# A checkpoint, exported as the cache has it


def test_the_cache_is_asked_for_what_the_launcher_was_asked_for(tmp_path: Path) -> None:
    given = {"MAX_BATCH_SIZE": "3", "MAX_TOTAL_TOKENS": "512", "MAX_INPUT_LENGTH": "400", "HF_NUM_CORES": "2"}
    config = configured(tmp_path, "--auto-cast-type", "bfloat16", "--revision", "v1", **given)
    query = cache_query(config, "org/model")
    assert (query.model, query.revision, query.max_batch_size, query.max_total_tokens) == ("org/model", "v1", 3, 512)
    assert (query.max_input_tokens, query.num_cores, query.auto_cast_type) == (400, 2, "bf16")
    assert query.sources["max_batch_size"] == "environment variable `MAX_BATCH_SIZE`"
    assert query.sources["auto_cast_type"] == "flag `--auto-cast-type`"


def test_a_dtype_asks_for_entries_of_that_type(tmp_path: Path) -> None:
    query = cache_query(configured(tmp_path, "--dtype", "float32"), "org/model")
    assert (query.auto_cast_type, query.sources["auto_cast_type"]) == ("fp32", "flag `--dtype`")
    assert cache_query(configured(tmp_path), "org/model").auto_cast_type is None


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """A checkpoint with two entries in the cache: 2 slots of 64 on 2 cores, and 4 of 128 on 4."""
    larger = {"batch_size": 4, "max_batch_size": 4, "sequence_length": 128, "tp_degree": 4}
    write_files(tmp_path / "cache-repository", registry_files(MODEL, "org/tiny", [{}, larger]))
    return ModelSource("checkpoint", write_checkpoint(tmp_path / "checkpoint", MODEL), "org/tiny")


def refuse(arguments: Sequence[str]) -> int:
    pytest.fail(f"started {arguments}")


class OptimumCli:
    """A stand-in for `optimum-cli export neuron`: leaves what it leaves, and a code."""

    def __init__(self, code: int = 0, **files: str) -> None:
        self.code, self.files = code, files
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, arguments: Sequence[str]) -> int:
        self.calls.append(tuple(arguments))
        for name, text in self.files.items():
            (Path(arguments[-1]) / f"{name}.json").write_text(text)
        return self.code


def complete() -> OptimumCli:
    return OptimumCli(config=json.dumps(MODEL.config()), neuron_config=json.dumps(neuron_document()))


def stored(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store/artifacts").glob("*"))


def test_on_a_stand_in_the_export_is_the_texts_with_the_values_of_the_smallest_entry(
    tmp_path: Path, source: ModelSource
) -> None:
    artifact = export_from_cache(configured(tmp_path), source, refuse)
    found = read_optimum_config(artifact.directory)
    assert (found.batch_size, found.sequence_length, found.tp_degree, found.auto_cast_type) == (2, 64, 2, "fp32")
    assert found.checkpoint_id == str(source.path)
    assert (artifact.directory / "tokenizer.json").read_bytes() == (source.path / "tokenizer.json").read_bytes()
    assert artifact.manifest.model_id == "org/tiny"


def test_what_was_asked_for_chooses_the_entry_which_may_have_more_of_it(tmp_path: Path, source: ModelSource) -> None:
    config = configured(tmp_path, HF_NUM_CORES="3", MAX_BATCH_SIZE="3", MAX_TOTAL_TOKENS="100")
    artifact = export_from_cache(config, source, refuse)
    assert read_optimum_config(artifact.directory).tp_degree == 4
    limits = limits_of(config, artifact)
    assert (limits.batch_size, limits.sequence_length, limits.max_input_tokens) == (3, 100, 99)


def test_the_second_start_takes_what_the_first_has_exported(tmp_path: Path, source: ModelSource) -> None:
    run = complete()
    config = configured(tmp_path, emulates=False)
    first = export_from_cache(config, source, run, tmp_path)
    assert export_from_cache(config, source, refuse, tmp_path) == first
    assert len(run.calls) == 1


def test_another_entry_revision_or_edit_is_another_export(tmp_path: Path, source: ModelSource) -> None:
    first = export_from_cache(configured(tmp_path), source, refuse)
    other_entry = export_from_cache(configured(tmp_path, HF_NUM_CORES="4"), source, refuse)
    write_checkpoint(tmp_path / "snapshots/of-another-commit", MODEL)
    moved = ModelSource("checkpoint", tmp_path / "snapshots/of-another-commit", source.model_id)
    other_revision = export_from_cache(configured(tmp_path, "--revision", "v2"), moved, refuse)
    (source.path / "generation_config.json").write_text('{"eos_token_id": [1, 2, 3]}')
    edited = export_from_cache(configured(tmp_path), source, refuse)
    assert len({each.directory for each in (first, other_entry, other_revision, edited)}) == 4
    assert len(stored(tmp_path)) == 4


def test_on_devices_optimum_neuron_exports_with_the_values_of_the_entry(tmp_path: Path, source: ModelSource) -> None:
    run = complete()
    artifact = export_from_cache(configured(tmp_path, emulates=False), source, run, tmp_path)
    [arguments] = run.calls
    assert arguments[:-1] == (
        *("optimum-cli", "export", "neuron", "--model", str(source.path), "--task", "text-generation"),
        *("--batch_size", "2", "--sequence_length", "64", "--tensor_parallel_size", "2", "--torch_dtype", "float32"),
    )
    assert Path(arguments[-1]).parent == artifact.directory.parent, "renamed when it is complete"
    # The program of some versions leaves no tokenizer.
    assert (artifact.directory / "tokenizer.json").read_bytes() == (source.path / "tokenizer.json").read_bytes()


def test_the_program_beside_the_engines_interpreter_is_taken(tmp_path: Path, source: ModelSource) -> None:
    run = complete()
    program = tmp_path / "optimum/bin/optimum-cli"
    program.parent.mkdir(parents=True)
    program.touch()
    config = configured(tmp_path, "--engine-python", str(program.with_name("python")), emulates=False)
    export_from_cache(config, source, run, tmp_path)
    assert run.calls[0][:3] == (str(program), "export", "neuron")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (OptimumCli(1, neuron_config="{}"), "`optimum-cli export neuron` ended with code 1; its output above says why"),
        (OptimumCli(0, config="{}"), "`optimum-cli export neuron` wrote no neuron_config.json"),
    ],
    ids=["a failure", "no output"],
)
def test_an_export_that_fails_leaves_nothing_behind(
    tmp_path: Path, source: ModelSource, run: OptimumCli, message: str
) -> None:
    config = configured(tmp_path, emulates=False)
    with pytest.raises(CompileError, match=message):
        export_from_cache(config, source, run, tmp_path)
    assert stored(tmp_path) == []
    assert export_from_cache(config, source, complete(), tmp_path).directory.name == stored(tmp_path)[0]


def test_a_machine_without_the_program_is_told_of_the_container() -> None:
    with pytest.raises(SetupError, match="needs `no-such-program` of optimum-neuron 0.4 .* docker/Dockerfile.nxd"):
        run_command(["no-such-program", "export"])


def test_the_program_ends_with_its_own_code() -> None:
    assert run_command([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_a_precision_that_exports_do_not_have_is_refused_before_the_export(tmp_path: Path, source: ModelSource) -> None:
    with pytest.raises(OptionError, match="flag `--quantize` is int8, and `quantize` of the exported model is none"):
        export_from_cache(configured(tmp_path, "--quantize", "int8", emulates=False), source, refuse, tmp_path)


def test_a_miss_lists_every_entry_the_nearest_and_what_would_hit(tmp_path: Path, source: ModelSource) -> None:
    with pytest.raises(ModelError) as caught:
        export_from_cache(configured(tmp_path, MAX_BATCH_SIZE="8", emulates=False), source, refuse, tmp_path)
    text = str(caught.value)
    assert text.startswith("`model_id` org/tiny: the Neuron Model Cache has no entry for what was asked for\n")
    assert "model     org/tiny\n" in text
    assert f"looked in {tmp_path / 'cache-repository'}: 2 entries" in text
    assert text.count("not taken ") == 2
    assert "batch_size: batch_size is 2, wanted at least 8 (environment variable `MAX_BATCH_SIZE`)" in text
    assert "nearest   tp 4, batch 4, sequence 128" in text
    assert "would hit MAX_BATCH_SIZE=4 MAX_TOTAL_TOKENS=128 HF_NUM_CORES=4 HF_AUTO_CAST_TYPE=fp32" in text
    assert "optimum-cli export neuron --model org/tiny " in text
    assert not (tmp_path / "store").exists()


def test_a_miss_for_want_of_cores_says_which_devices_to_expose(tmp_path: Path) -> None:
    write_files(tmp_path / "cache-repository", registry_files(MODEL, "org/tiny", [{"tp_degree": 8}]))
    source = ModelSource("checkpoint", write_checkpoint(tmp_path / "checkpoint", MODEL), "org/tiny")
    root = neuron_root(tmp_path / "root", "inf2.xlarge", devices=1, cores=2)
    with pytest.raises(ModelError, match="--device=/dev/neuron0 --device=/dev/neuron1 --device=/dev/neuron2 --dev"):
        export_from_cache(configured(tmp_path, emulates=False), source, refuse, root)


def test_a_family_without_digests_is_found_by_its_name_on_the_hub(tmp_path: Path, source: ModelSource) -> None:
    config = MODEL.config() | {"model_type": "mistral"}
    (source.path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path / "cache-repository").rglob("llama"):
        path.rename(path.with_name("mistral"))
    artifact = export_from_cache(configured(tmp_path), source, refuse)
    assert read_optimum_config(artifact.directory).batch_size == 2


def test_a_written_config_says_what_the_entry_says(tmp_path: Path) -> None:
    document = neuron_document(batch_size=4, max_batch_size=4, on_device_sampling=True, glu_mlp=True)
    config = parse_optimum_config(document, "entry")
    again = config_document(config)
    assert parse_optimum_config(again, "written") == config
    assert {**again, **document} == again


def test_the_exporting_command_can_be_copied_from_a_log() -> None:
    config = parse_optimum_config(neuron_document(torch_dtype="bfloat16", tp_degree=8), "entry")
    source = ModelSource("checkpoint", Path("/data/checkpoint"), "org/tiny")
    assert " ".join(export_arguments(source, config, Path("/data/new"))) == (
        "export neuron --model /data/checkpoint --task text-generation --batch_size 2 "
        "--sequence_length 64 --tensor_parallel_size 8 --torch_dtype bfloat16 /data/new"
    )


def test_the_exporting_command_leaves_this_target_to_optimum_neuron(tmp_path: Path, source: ModelSource) -> None:
    arguments = ["--model-id", str(source.path), "--target", "nxd", str(tmp_path / "output")]
    config = load_export_config(arguments, {}, "ranvier export")
    with pytest.raises(OptionError, match="`target` nxd: such models are exported by `optimum-cli export neuron`"):
        export_artifact(config)
    assert not (tmp_path / "output").exists()


def test_a_gguf_file_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    config = configured(tmp_path, "--target", "nxd", "--model-id", str(tmp_path / "model.gguf"))
    with pytest.raises(ModelError, match=re.escape("target nxd exports checkpoints, not GGUF files")):
        prepare_artifact(config)
