"""`ranvier export --target neuron`: what an artifact holds, what survives a failure, and what a later start finds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from export_requests import MODEL, quiet, request

import ranvier
from ranvier.artifacts import Artifact, ExportRequest, NeuronWish, Store, open_artifact
from ranvier.compose.plan import export_artifact
from ranvier.config.export import load_export_config
from ranvier.errors import ArtifactError, CompileError, ModelError, OptionError
from ranvier.export import export, export_to_store
from ranvier.export.program_runs import ProgramProgress
from ranvier.models import PackedWeights
from ranvier.models.tensor_file import TensorFile
from tiny_checkpoints import write_checkpoint, write_gguf

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: it has no release for this Python"
)

LOADER = Path(__file__).with_name("load_artifact.py")
PROGRAMS = (
    *("prefill_32", "chunk_32", "score_32", "decode_32", "choose_masked", "choose", "choose_first", "choose_greedy"),
    *("share", "clear", "set_counts"),
)
HIT, COMPILED = "Persistent compilation cache hit for 'jit_call'", "Finished XLA compilation of jit(call)"
"""What JAX says of a program that it finds compiled, and of each that it has in the end."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Programs of tests run a few times only; JAX says what it finds in its cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("JAX_LOG_COMPILES", "1")
        patch.delenv("XLA_FLAGS", raising=False)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("neuron") / "checkpoint", MODEL)


def wanted(checkpoint: Path, **changes: Any) -> ExportRequest:
    """A small one that is lowered and not compiled."""
    wish = NeuronWish(**{"num_cores": 1, "auto_cast_type": "bf16"} | changes.pop("wish", {}))
    given = {"target": "neuron", "quantize": "auto", "batch_size": 2, "sequence_length": 32, "neuron": wish}
    return request(checkpoint, **given | changes)


@pytest.fixture(scope="module")
def compiled(checkpoint: Path) -> Artifact:
    """For 2 emulated cores, as the command line makes it."""
    argv = ["--target=neuron", "--model-id", str(checkpoint), "--batch_size=2", "--sequence_length=32"]
    argv += ["--num_cores=2", "--auto_cast_type=fp32", "--emulate-neuron", str(checkpoint.parent / "compiled")]
    return export_artifact(load_export_config(argv, {}, "ranvier export"))


# What an artifact holds


def test_an_artifact_has_texts_shards_programs_and_what_was_compiled(compiled: Artifact) -> None:
    def names(*parts: str) -> list[str]:
        return sorted(path.name for path in compiled.directory.joinpath(*parts).iterdir())

    texts = ["config.json", "generation_config.json", "ranvier.json", "tokenizer.json", "tokenizer_config.json"]
    assert names() == sorted([*texts, "compiled", "programs", "weights"])
    assert names("programs") == sorted(f"{name}.stablehlo" for name in PROGRAMS)
    cores = [f"core_0000{core}_of_00002.safetensors" for core in range(2)]
    assert names("weights") == ["all_cores.safetensors", *cores]
    assert names("compiled") == ["jax"]
    assert len(names("compiled", "jax")) == len(PROGRAMS)
    assert [path.name for path in compiled.directory.parent.iterdir() if path.name.startswith(".")] == []


def test_the_manifest_says_what_was_made(compiled: Artifact) -> None:
    manifest = compiled.manifest
    assert (manifest.target, manifest.batch_size, manifest.sequence_length) == ("neuron", 2, 32)
    assert (manifest.quantize, manifest.dtype, manifest.kv_cache_dtype) == ("auto", "float32", "auto")
    made = manifest.neuron
    assert made is not None and made.compiled is not None
    assert (made.num_cores, made.auto_cast_type, made.num_top) == (2, "fp32", 8)
    assert (made.prefill, made.chunk, made.decode, made.score) == ((32,), (32,), (32,), 32)
    assert (made.programs, made.jax) == (PROGRAMS, version("jax"))
    assert (made.compiled.platform, made.compiled.lnc) == ("cpu", 1)
    assert made.compiled.compiler == f"xla-cpu {version('jaxlib')}"
    assert made.compiled.target == os.uname().machine
    assert set(made.compiled.seconds) == set(PROGRAMS)
    assert all(seconds > 0 for seconds in made.compiled.seconds.values())


def test_the_manifest_has_the_size_of_every_file_that_is_needed(compiled: Artifact) -> None:
    assert compiled.manifest.neuron is not None
    listed = {file.path: file.size for file in compiled.manifest.neuron.files}
    folders = [compiled.directory / "weights", compiled.directory / "programs"]
    paths = [path for folder in folders for path in folder.iterdir()]
    assert listed == {str(path.relative_to(compiled.directory)): path.stat().st_size for path in paths}
    weights = sum(size for path, size in listed.items() if path.startswith("weights/"))
    assert compiled.manifest.weights_bytes == weights


def test_the_key_lists_everything_that_was_asked_for(compiled: Artifact) -> None:
    key = compiled.manifest.key
    expected = {"num_cores": "2", "auto_cast_type": "fp32", "instance": "unknown", "compiled_for": "cpu"}
    assert expected.items() <= key.items()
    assert {"batch_size": "2", "sequence_length": "32", "target": "neuron"}.items() <= key.items()


@pytest.mark.parametrize("name", ["weights/core_00001_of_00002.safetensors", "programs/share.stablehlo"])
@pytest.mark.parametrize("damage", ["gone", "longer"])
def test_a_file_of_another_size_is_refused_with_both(
    tmp_path: Path, compiled: Artifact, name: str, damage: str
) -> None:
    path = Path(shutil.copytree(compiled.directory, tmp_path / "copy")) / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"x") if damage == "longer" else path.unlink()
    found = size + 1 if damage == "longer" else 0
    with pytest.raises(ArtifactError) as caught:
        open_artifact(tmp_path / "copy")
    assert str(caught.value) == f"{path}: {found} bytes, the manifest says {size}; export the model again"


@pytest.fixture(scope="module")
def lowered(checkpoint: Path) -> tuple[Artifact, list[ProgramProgress]]:
    """Not compiled, with what was told on the way."""
    told: list[ProgramProgress] = []
    artifact = export(wanted(checkpoint), checkpoint.parent / "lowered", quiet, report=told.append)
    return artifact, told


def test_without_a_compiler_nothing_is_compiled(lowered: tuple[Artifact, list[ProgramProgress]]) -> None:
    artifact, _ = lowered
    assert artifact.manifest.neuron is not None and artifact.manifest.neuron.compiled is None
    assert not (artifact.directory / "compiled").exists()
    assert not list(artifact.directory.parent.glob(".compiling-*"))


def test_progress_names_and_counts_every_program(lowered: tuple[Artifact, list[ProgramProgress]]) -> None:
    _, told = lowered
    assert {each.job for each in told} == {"lower"}
    expected = [
        step for done, name in enumerate(PROGRAMS) for step in (("started", name, done), ("finished", name, done + 1))
    ]
    assert [(each.state, each.name, each.done) for each in told] == expected
    assert {each.total for each in told} == {len(PROGRAMS)}


def digests(artifact: Artifact) -> dict[str, str]:
    assert artifact.manifest.neuron is not None
    paths = [file.path for file in artifact.manifest.neuron.files]
    return {path: hashlib.sha256((artifact.directory / path).read_bytes()).hexdigest() for path in paths}


def test_files_are_the_same_again_from_another_process_and_place(
    tmp_path: Path, checkpoint: Path, lowered: tuple[Artifact, list[ProgramProgress]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.chdir(tmp_path)
    elsewhere = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    assert digests(export(wanted(elsewhere), tmp_path / "again", quiet)) == digests(lowered[0])


def test_programs_name_no_file_of_this_host(
    compiled: Artifact, lowered: tuple[Artifact, list[ProgramProgress]]
) -> None:
    secrets = (str(Path(ranvier.__file__).parent), sys.prefix, str(Path.cwd()), str(Path.home()), "/tmp/", ".py")
    for artifact in (compiled, lowered[0]):
        for path in (artifact.directory / "programs").iterdir():
            held = path.read_bytes()
            assert [secret for secret in secrets if secret.encode() in held] == [], path.name


def test_a_gguf_file_is_exported_too(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", MODEL, "Q8_0")
    artifact = export(wanted(path), tmp_path / "neuron", quiet)
    packed = export(request(path, dtype="bfloat16"), tmp_path / "cpu", quiet)
    held = TensorFile(artifact.directory / "weights" / "all_cores.safetensors")
    # Both hold norms as they are; the matrices of one are codes.
    norm = PackedWeights(packed.weights_path).read("final_norm")
    assert held.read("final_norm").tobytes() == norm.values.tobytes()
    assert held.dtype_name("layers.0.q") == "BF16"


# What a later start finds


def load(directory: Path, **environ: str) -> str:
    """What JAX says while the artifact is loaded in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(LOADER), str(directory)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{len(PROGRAMS)}\n"), done.stderr
    return done.stderr


def cached(directory: Path) -> set[str]:
    """Everything that was compiled, by name."""
    return {path.name for path in (directory / "compiled" / "jax").iterdir() if path.name.endswith("-cache")}


def test_everything_compiled_is_found_again_also_where_the_artifact_was_copied_to(
    tmp_path: Path, compiled: Artifact
) -> None:
    directory = Path(shutil.copytree(compiled.directory, tmp_path / "elsewhere"))
    before = cached(directory)
    said = load(directory)

    assert len(before) == len(PROGRAMS)
    assert cached(directory) == before
    assert said.count(HIT) == said.count(COMPILED) == len(PROGRAMS)


def test_what_the_first_start_compiles_the_second_one_finds(
    tmp_path: Path, lowered: tuple[Artifact, list[ProgramProgress]]
) -> None:
    directory = Path(shutil.copytree(lowered[0].directory, tmp_path / "copy"))
    said = load(directory)
    assert (said.count(HIT), said.count(COMPILED)) == (0, len(PROGRAMS))
    assert len(cached(directory)) == len(PROGRAMS)
    assert load(directory).count(HIT) == len(PROGRAMS)


# Failures


def test_after_a_failure_only_the_rest_is_compiled(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def spoil(progress: ProgramProgress) -> None:
        if (progress.job, progress.state, progress.done) == ("lower", "finished", len(PROGRAMS)):
            (building,) = tmp_path.glob(".building-*")
            (building / "programs" / "decode_32.stablehlo").write_bytes(b"damaged")

    asked = wanted(checkpoint, wish={"compile_for": "cpu", "auto_cast_type": "fp32"}, dtype="float32")
    with pytest.raises(CompileError) as caught:
        export(asked, tmp_path / "out", quiet, report=spoil)
    assert str(caught.value).startswith("compiling failed 2 times: `decode_32`: ArtifactError: ")
    assert str(caught.value).endswith("; 10 of 11 are done")
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith(".compiling-")
    assert len(list((kept / "jax").iterdir())) == 10
    capfd.readouterr()

    artifact = export(asked, tmp_path / "out", quiet)
    said = capfd.readouterr().err
    assert (said.count(HIT), said.count(COMPILED)) == (10, 11)
    assert list(tmp_path.iterdir()) == [artifact.directory]
    assert len(cached(artifact.directory)) == len(PROGRAMS)


def test_exports_of_the_same_request_side_by_side_do_not_take_each_others_compiled_programs(
    tmp_path: Path, checkpoint: Path
) -> None:
    asked = wanted(checkpoint, wish={"compile_for": "cpu", "auto_cast_type": "fp32"}, dtype="float32")
    inner: list[Artifact] = []

    def export_another(progress: ProgramProgress) -> None:
        if (progress.job, progress.state, progress.done) == ("compile", "finished", 3):
            inner.append(export(asked, tmp_path / "inner", quiet))

    outer = export(asked, tmp_path / "outer", quiet, report=export_another)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner", "outer"]
    assert [len(cached(one.directory)) for one in (outer, *inner)] == [len(PROGRAMS)] * 2


def test_an_interrupted_export_leaves_nothing_that_looks_like_an_artifact(tmp_path: Path, checkpoint: Path) -> None:
    def stop(progress: ProgramProgress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(wanted(checkpoint), tmp_path / "out", quiet, report=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantize": "int8"}, "`quantize` int8 is not served by target neuron"),
        ({"kv_cache_dtype": "u8"}, "`kv_cache_dtype` u8 is not served by target neuron"),
        ({"sequence_length": 999}, "`max_total_tokens` (`sequence_length` of an export) must be <= 256"),
        ({"wish": {"instance": "inf2.xlarge", "num_cores": 9}}, "`num_cores` must be <= 2, the NeuronCores of inf2.xl"),
        ({"batch_size": 10**8, "wish": {"instance": "inf2.xlarge"}}, "`batch_size` 100000000 x `sequence_length` 32 "),
        ({"wish": {"instance": "inf9.xlarge"}}, "`instance` must be one of inf2.xlarge, "),
    ],
    ids=["quantize", "cache", "length", "cores", "memory", "instance"],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((OptionError, ModelError)) as caught:
        export(wanted(checkpoint, **changes), tmp_path / "out", quiet)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "flatbuffers" else found(name))
    with pytest.raises(Exception, match="target neuron needs flatbuffers: pip install 'ranvier"):
        export(wanted(checkpoint), tmp_path / "out", quiet)


# In the store


def test_the_store_makes_one_for_each_wish_and_finds_it_again(tmp_path: Path, checkpoint: Path) -> None:
    store, told = Store(tmp_path), []
    first = export_to_store(wanted(checkpoint), store, quiet, told.append)
    assert len(told) == 2 * len(PROGRAMS)
    assert export_to_store(wanted(checkpoint), store, quiet, told.append) == first
    assert len(told) == 2 * len(PROGRAMS)
    asked = wanted(checkpoint)
    assert asked.neuron is not None
    for other in (
        replace(asked, batch_size=3),
        replace(asked, sequence_length=33),
        replace(asked, neuron=replace(asked.neuron, num_cores=2)),
        replace(asked, neuron=replace(asked.neuron, compile_for="cpu")),
    ):
        assert store.find(other.name, other.key()) is None


def test_the_command_tells_each_step_as_a_line_of_json(tmp_path: Path, checkpoint: Path) -> None:
    entry = "import sys; from ranvier.launcher.main import ranvier; sys.argv[0] = 'ranvier'; ranvier()"
    argv = ["--target", "neuron", "--model-id", str(checkpoint), "--batch-size", "1", "--sequence-length", "32"]
    done = subprocess.run(
        [sys.executable, "-c", entry, "export", *argv, str(tmp_path / "out")],
        env={**os.environ, "JAX_LOG_COMPILES": "0", "HF_NUM_CORES": "1", "HF_AUTO_CAST_TYPE": "bf16"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["program"] for line in lines if line.get("state") == "finished"] == list(PROGRAMS)
    manifest = open_artifact(tmp_path / "out").manifest.neuron
    assert manifest is not None and (manifest.num_cores, manifest.auto_cast_type) == (1, "bf16")
