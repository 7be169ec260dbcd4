"""From a model source to an artifact directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ranvier import __version__
from ranvier.artifacts import (
    FORMAT,
    WEIGHTS_NAME,
    Artifact,
    ExportRequest,
    Manifest,
    ModelSource,
    Store,
    digest,
    open_artifact,
    publish,
    write_manifest,
)
from ranvier.errors import ModelError, OptionError
from ranvier.export import neuron
from ranvier.export.program_runs import ProgramProgress, Report
from ranvier.export.sample import sample_text
from ranvier.models import Checkpoint, DecoderSpec, SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.models.packing import DType, Importance, Progress, Quantize
from ranvier.text import (
    Tokenizer,
    end_token_ids_from_gguf,
    tokenizer_config_from_gguf,
    tokenizer_json_from_gguf,
)

DEFAULT_BATCH_SIZE = 16
DEFAULT_SEQUENCE_LENGTH = 2048

_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
)


def _ignore(progress: ProgramProgress) -> None:
    """Nobody wants to know."""


_QUANTIZE: tuple[Quantize, ...] = ("none", "auto", "int8", "int4")


def export_to_store(request: ExportRequest, store: Store, progress: Progress, report: Report = _ignore) -> Artifact:
    """The stored artifact for a request, made now if it is not there."""
    name, key = request.name, request.key()
    found = store.find(name, key)
    if found is not None:
        return found
    with store.locked():
        found = store.find(name, key)
        if found is not None:
            return found
        store.discard(store.directory(name, key))
        if request.neuron is not None:
            return export(request, store.directory(name, key), progress, report=report)
        linked = store.with_weights(digest(request.weights_fields()))
        return export(request, store.directory(name, key), progress, linked.weights_path if linked else None)


def export(
    request: ExportRequest,
    directory: Path,
    progress: Progress,
    weights: Path | None = None,
    report: Report = _ignore,
) -> Artifact:
    """Write an artifact to `directory`, all or nothing. `weights` is a file to link instead of packing.

    `report` is told of programs that are lowered and compiled. Raises `ModelError` for a model that cannot be served,
    `OptionError` for limits that it cannot have, and `CompileError`.
    """
    checkpoint = open_checkpoint(request.source)
    spec = spec_of(checkpoint.config)
    sequence_length = _sequence_length(request.sequence_length, spec)
    if request.neuron is not None:
        return _export_neuron(request, checkpoint, directory, progress, report)
    with publish(directory) as building:
        write_texts(request.source, checkpoint, building)
        # Read from the source where it has one, so that an error names the user's file.
        texts = request.source.path if request.source.kind == "checkpoint" else building
        Tokenizer.from_file(texts / "tokenizer.json")
        if weights is None:
            importance = _importance(request, checkpoint, building, progress)
            write_weights(checkpoint, _plan(request), building / WEIGHTS_NAME, progress, importance)
        else:
            _link(weights, building / WEIGHTS_NAME)
        write_manifest(building, _manifest(request, sequence_length, building / WEIGHTS_NAME))
    return open_artifact(directory)


def _export_neuron(
    request: ExportRequest, checkpoint: Checkpoint, directory: Path, progress: Progress, report: Report
) -> Artifact:
    assert request.neuron is not None
    neuron.require_jax()
    neuron.check_request(request)
    spec = spec_of(checkpoint.config)
    length = _sequence_length(request.sequence_length, spec)
    settled = neuron.settle(request, request.neuron, spec, (request.batch_size or DEFAULT_BATCH_SIZE, length))
    with publish(directory) as building:
        write_texts(request.source, checkpoint, building)
        texts = request.source.path if request.source.kind == "checkpoint" else building
        Tokenizer.from_file(texts / "tokenizer.json")
        job = neuron.NeuronExport(request, settled, building, progress, report)
        made = job.write(checkpoint, spec, neuron.kept_directory(directory, request.key()))
        manifest = _manifest(request, settled.limits.sequence_length, building)
        batch_size = settled.limits.batch_size
        size = sum(file.size for file in made.files if file.path.startswith("weights/"))
        write_manifest(building, replace(manifest, batch_size=batch_size, weights_bytes=size, neuron=made))
    return open_artifact(directory)


def open_checkpoint(source: ModelSource) -> Checkpoint:
    """The checkpoint that a source names. Raises `ModelError` for artifacts and for what cannot be read."""
    if source.kind == "checkpoint":
        return SafetensorsCheckpoint(source.path)
    if source.kind != "gguf":
        raise ModelError(f"`model_id` {source.model_id}: is an exported artifact already; give the checkpoint")
    # Imported here: the reader brings in packages that no other path needs.
    from ranvier.models.gguf_file import GgufCheckpoint

    return GgufCheckpoint(source.path)


def _sequence_length(asked: int | None, spec: DecoderSpec) -> int:
    if asked is not None and asked > spec.max_positions:
        raise OptionError(
            f"`max_total_tokens` (`sequence_length` of an export) must be <= {spec.max_positions}, the positions the "
            f"model was made for. Given: {asked}"
        )
    return asked or min(DEFAULT_SEQUENCE_LENGTH, spec.max_positions)


def _plan(request: ExportRequest) -> WeightPlan:
    quantize = next(known for known in _QUANTIZE if known == request.quantize)
    dtype: DType = "float32" if request.dtype == "float32" else "bfloat16"
    return WeightPlan(quantize=quantize, dtype=dtype)


def _importance(
    request: ExportRequest, checkpoint: Checkpoint, building: Path, progress: Progress
) -> Importance | None:
    """What the model says on the sample text about its columns; only rounding to int4 needs it."""
    if request.quantize != "int4" or request.target != "cpu":
        return None
    # Imported here: nothing else in an export needs the target's library.
    from ranvier.targets.cpu.importance import measure_importance

    token_ids = Tokenizer.from_file(building / "tokenizer.json").encode(sample_text())
    rough = building / "rough.safetensors"
    try:
        write_weights(checkpoint, WeightPlan(quantize="int8", dtype="bfloat16"), rough, progress)
        return measure_importance(spec_of(checkpoint.config), rough, token_ids)
    finally:
        rough.unlink(missing_ok=True)


def _manifest(request: ExportRequest, sequence_length: int, weights: Path) -> Manifest:
    return Manifest(
        format=FORMAT,
        model_id=request.source.model_id,
        revision=request.revision,
        target=request.target,
        batch_size=request.batch_size or DEFAULT_BATCH_SIZE,
        sequence_length=sequence_length,
        quantize=request.quantize,
        dtype=request.dtype,
        kv_cache_dtype=request.kv_cache_dtype,
        weights_bytes=weights.stat().st_size,
        key=request.key(),
        weights_key=digest(request.weights_fields()),
        ranvier_version=__version__,
    )


def _link(existing: Path, path: Path) -> None:
    try:
        os.link(existing, path)
    except OSError:
        shutil.copyfile(existing, path)


def write_texts(source: ModelSource, checkpoint: Checkpoint, building: Path) -> None:
    """Config, tokenizer and templates: what the router reads."""
    _write_json(building / "config.json", checkpoint.config)
    if source.kind == "checkpoint":
        for name in _TEXT_FILES:
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, building / name)
        return
    from ranvier.models.gguf_file import GgufCheckpoint

    assert isinstance(checkpoint, GgufCheckpoint)
    metadata = checkpoint.metadata
    (building / "tokenizer.json").write_text(tokenizer_json_from_gguf(metadata), encoding="utf-8")
    _write_json(building / "tokenizer_config.json", tokenizer_config_from_gguf(metadata))
    _write_json(building / "generation_config.json", {"eos_token_id": end_token_ids_from_gguf(metadata)})


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
