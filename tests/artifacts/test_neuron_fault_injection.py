"""Whatever write a full disk or a kill meets, an export for Neuron devices is complete or absent.

As `test_fault_injection`; programs are lowered and compiled by `writing_child`, but for the tests at the end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
import zlib
from pathlib import Path

import pytest
from test_fault_injection import KINDS, ends, met, runs

from neuron_models import registry_files, write_files, write_neuron_model
from ranvier.artifacts import NeuronManifest
from ranvier.core import Limits
from ranvier.export.orders import ProgramOrder
from ranvier.export.program_runs import ProgramRuns
from ranvier.neuron_host import drop_damaged, jax_environment
from tiny_checkpoints import TinyModel, write_checkpoint

MODEL = TinyModel(num_layers=1)
ERROR = {"full": "ArtifactError", "killed": "killed"}
needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: it has no release for this Python"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("neuron") / "tiny", MODEL)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A checkpoint, a cache repository with an entry for it, and what optimum-neuron exports, without a tokenizer."""
    folder = tmp_path_factory.mktemp("nxd")
    write_files(folder / "cache", registry_files(MODEL, "org/tiny", [{}]))
    write_neuron_model(folder / "exported", MODEL, checkpoint_id=str(checkpoint))
    (folder / "exported" / "tokenizer.json").unlink()
    (folder / "checkpoint").symlink_to(checkpoint)
    return folder


# Exports


@needs_jax
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_for_neuron_devices_is_complete_or_absent(kind: str, tmp_path: Path, checkpoint: Path) -> None:
    *faulty, last = runs("neuron_store", kind, tmp_path, str(checkpoint))

    assert met(faulty, "os.mkdir", "open", "write", "os.sendfile", "os.chmod", "os.fsync")
    hits = [run["outcome"]["hit"] for run in faulty]
    for place in ("/weights/core_00001_of_00002.safetensors", "/ranvier.json"):
        assert any(hit.startswith("write ") and hit.endswith(place) for hit in hits)
    # What was compiled gets into the artifact in one rename, as the artifact gets its name.
    assert [".compiling-" in hit for hit in hits if hit.startswith("os.rename ")] == [True, False]
    assert ends(faulty) == {ERROR[kind]}
    assert {run["found"] for run in faulty} == {"absent"}
    # Nothing is left of what was kept either.
    assert all((run["again"], len(run["left"])) == ("complete", 1) for run in faulty)
    assert (last["outcome"]["end"], last["found"]) == ("passed", "complete")


@needs_jax
def test_a_process_that_is_killed_leaves_no_half_of_a_program(tmp_path: Path, checkpoint: Path) -> None:
    faulty = runs("neuron_children", "killed", tmp_path, str(checkpoint))

    assert met(faulty, *(f"{job} {operation}" for job in ("lower", "compile") for operation in ("open", "write")))
    # Half an entry of the compile cache stays where it is until somebody looks.
    assert {run["outcome"]["end"] for run in faulty} == {"passed", "CompileError"}
    assert {run["found"] for run in faulty} == {"absent", "complete"}
    assert all((run["again"], run["left"]) == ("complete", ["artifact"]) for run in faulty)


@needs_jax
def test_a_process_that_finds_the_disk_full_leaves_no_half_of_a_program(tmp_path: Path, checkpoint: Path) -> None:
    faulty = runs("neuron_children", "full", tmp_path, str(checkpoint))
    messages = [run["outcome"]["message"] for run in faulty if run["outcome"]["end"] == "CompileError"]
    cut = " of what was compiled could not be written, perhaps because the disk is full; make room and export again"

    assert {run["outcome"]["end"] for run in faulty} == {"passed", "CompileError"}
    assert any("lowering failed 2 times: " in message and "No space left on device" in message for message in messages)
    assert any(message.endswith(cut) for message in messages)
    # JAX passes over an entry for which there is no room at all: the first start compiles that program.
    assert {(run["found"], run["again"]) for run in faulty} == {
        ("absent", "complete"),
        ("complete", "complete"),
        ("to be compiled", "to be compiled"),
    }
    assert all(run["left"] == ["artifact"] for run in faulty)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", ["nxd", "nxd_devices", "nxd_texts"])
def test_a_directory_of_optimum_neuron_is_complete_or_absent(
    scenario: str, kind: str, tmp_path: Path, exported: Path
) -> None:
    *faulty, last = runs(scenario, kind, tmp_path, str(exported))

    written = {"nxd": "write", "nxd_devices": "write", "nxd_texts": "os.symlink"}[scenario]
    assert met(faulty, "os.mkdir", "open", written, "os.chmod", "os.fsync", "os.rename")
    assert ends(faulty) == {ERROR[kind]}
    assert {run["found"] for run in faulty} == {"absent"}
    assert all((run["again"], len(run["left"])) == ("complete", 1) for run in faulty)
    assert (last["outcome"]["end"], last["found"]) == ("passed", "complete")


# Half of what was compiled


def entry(cache: Path, name: str, data: bytes) -> None:
    (cache / "jax").mkdir(exist_ok=True)
    (cache / "jax" / name).write_bytes(data)


def test_entries_that_were_cut_short_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    data = zlib.compress(b"program" * 1000)
    entry(tmp_path, "whole-cache", data)
    damages = {"half": data[: len(data) // 2], "empty": b"", "last": data[:-1], "zeros": bytes(len(data))}
    for name, damage in damages.items():
        entry(tmp_path, f"{name}-cache", damage)
    entry(tmp_path, "whole-atime", b"\0")
    (tmp_path / "neuronx-cc").mkdir()
    (tmp_path / "neuronx-cc" / "other-cache").write_bytes(b"")

    assert drop_damaged(tmp_path) == ("empty-cache", "half-cache", "last-cache", "zeros-cache")
    assert sorted(path.name for path in tmp_path.rglob("*-*") if path.is_file()) == [
        "other-cache",
        "whole-atime",
        "whole-cache",
    ]
    assert drop_damaged(tmp_path / "missing") == ()


def test_entries_of_the_other_compression_are_judged_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    magic = bytes.fromhex("28b52ffd")
    entry(tmp_path, "whole-cache", magic + b"data.")
    entry(tmp_path, "half-cache", magic + b"da")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert drop_damaged(tmp_path) == ()

    class ZstdDecompressor:
        def decompress(self, data: bytes) -> bytes:
            if not data.endswith(b"."):
                raise ValueError("did not decompress full frame")
            return data

    library = types.ModuleType("zstandard")
    vars(library)["ZstdDecompressor"] = ZstdDecompressor
    monkeypatch.setitem(sys.modules, "zstandard", library)
    assert drop_damaged(tmp_path) == ("half-cache",)


@needs_jax
def test_a_process_that_compiles_makes_anew_what_another_left_half_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODEL.config()))
    cache = tmp_path / "kept"

    def carry_out(job: str) -> str:
        added = jax_environment(os.environ, emulated_cores=1, cache=cache) | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        ProgramRuns(order(job, tmp_path), {**os.environ, **added}, lambda progress: None).run()
        return capfd.readouterr().err

    carry_out("lower")
    carry_out("compile")
    (path,) = (cache / "jax").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    assert "Error reading persistent compilation cache" not in carry_out("compile")
    assert list((cache / "jax").iterdir()) == [path]
    assert zlib.decompress(path.read_bytes())


def order(job: str, directory: Path) -> ProgramOrder:
    """For one small program."""
    manifest = NeuronManifest(
        num_cores=1,
        auto_cast_type="fp32",
        num_top=1,
        prefill=(32,),
        chunk=(32,),
        decode=(32,),
        score=32,
        programs=("clear",),
        files=(),
        jax="",
    )
    return ProgramOrder(
        job="lower" if job == "lower" else "compile",
        directory=str(directory),
        limits=Limits(batch_size=1, sequence_length=32, max_input_tokens=31, max_batch_prefill_tokens=32),
        neuron=manifest,
        names=manifest.programs,
        jobs=1,
    )
