"""Exporting the tiny model, and a given one, by the function behind `ranvier export`."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from ranvier.artifacts import COMPILED, Artifact, locate
from ranvier.config.self_check import SelfCheckConfig
from ranvier.models import SafetensorsCheckpoint, WeightPlan, write_weights
from ranvier.selfcheck.model import write_tiny_model
from ranvier.selfcheck.outcome import Notes
from ranvier.selfcheck.reference import LENGTH, NUM_SLOTS, WEIGHTS

CHECKPOINT, FIRST, SECOND, MODEL = "checkpoint", "first", "second", "model"


def write_checkpoint(folder: Path) -> None:
    """The tiny model, and its weights packed for the references."""
    write_tiny_model(folder / CHECKPOINT)
    plan = WeightPlan(quantize="none", dtype="float32")
    write_weights(SafetensorsCheckpoint(folder / CHECKPOINT), plan, folder / WEIGHTS, lambda done, total: None)


def export_tiny(config: SelfCheckConfig, num_cores: int, folder: Path, notes: Notes) -> int:
    """Export into `FIRST`, and into `SECOND`, which finds what was compiled; bytes of host memory at the most."""
    from ranvier.export.neuron import kept_directory
    from ranvier.export.process_memory import PeakMemory

    with PeakMemory(os.getpid()) as memory:
        first = _export(config, str(folder / CHECKPOINT), folder / FIRST, num_cores, (NUM_SLOTS, LENGTH))
    _say(first, notes)
    if not (first.directory / COMPILED).is_dir():
        return memory.peak
    # As if an export had been interrupted after its last program.
    shutil.copytree(first.directory / COMPILED, kept_directory(folder / SECOND, first.manifest.key))
    second = _export(config, str(folder / CHECKPOINT), folder / SECOND, num_cores, (NUM_SLOTS, LENGTH))
    known, fresh = _files(first), _files(second) - _files(first)
    notes.say(f"second export: {_seconds(second):.1f} s in the compiler, {len(fresh)} new files beside {len(known)}")
    notes.expect(not fresh, "the second export has compiled what the first one left in the cache")
    return memory.peak


def export_model(config: SelfCheckConfig, num_cores: int | None, folder: Path, notes: Notes) -> tuple[Path, int]:
    """The artifact of the model that was given, and bytes of host memory at the most.

    It is the model itself, or exported now with the plan's sizes.
    """
    from ranvier.export.process_memory import PeakMemory

    assert config.model_id is not None
    source = locate(config.model_id)
    if source.kind == "artifact":
        notes.say("an artifact was given")
        return source.path, 0
    # The planner chooses sizes for a device; for this machine's processor nobody does.
    sizes = (NUM_SLOTS, LENGTH) if config.emulate_neuron else None
    is_default = config.sources.get("auto_cast_type", "default") == "default"
    # As it would be served; the tiny model's float32 is for comparing.
    as_served = replace(config, auto_cast_type="bf16") if is_default else config
    with PeakMemory(os.getpid()) as memory:
        artifact = _export(as_served, config.model_id, folder / MODEL, num_cores, sizes)
    _say(artifact, notes)
    return artifact.directory, memory.peak


def _export(
    config: SelfCheckConfig, model_id: str, directory: Path, num_cores: int | None, sizes: tuple[int, int] | None
) -> Artifact:
    from ranvier.compose.plan import export_artifact
    from ranvier.config import load_export_config

    arguments = ["--model-id", model_id, "--target", "neuron", "--auto-cast-type", config.auto_cast_type]
    arguments += ["--num-cores", str(num_cores)] if num_cores else []
    arguments += ["--batch-size", str(sizes[0]), "--sequence-length", str(sizes[1])] if sizes else []
    arguments += ["--emulate-neuron"] if config.emulate_neuron else []
    # Without the environment's options: they are for serving.
    return export_artifact(load_export_config([*arguments, str(directory)], {}, "self-check"))


def _say(artifact: Artifact, notes: Notes) -> None:
    manifest, neuron = artifact.manifest, artifact.manifest.neuron
    assert neuron is not None
    notes.say(
        f"[{manifest.batch_size}, {manifest.sequence_length}], {neuron.num_cores} cores, {neuron.auto_cast_type}, "
        f"weights {manifest.weights_bytes / 1e6:.0f} MB, {len(neuron.programs)} programs"
    )
    if neuron.compiled is None:
        notes.expect(False, "nothing was compiled: there is no device for which it could be")
        return
    slowest = sorted(neuron.compiled.seconds.items(), key=lambda each: -each[1])[:3]
    notes.say(
        f"compiled by {neuron.compiled.compiler} for {neuron.compiled.target}: {_seconds(artifact):.1f} s, the slowest "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest)
    )


def _seconds(artifact: Artifact) -> float:
    neuron = artifact.manifest.neuron
    return sum(neuron.compiled.seconds.values()) if neuron and neuron.compiled else 0.0


def _files(artifact: Artifact) -> set[str]:
    folder = artifact.directory / COMPILED
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
