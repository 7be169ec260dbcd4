"""Wiring of models that optimum-neuron exported: on their devices, or on a stand-in for them."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from ranvier import __version__
from ranvier.artifacts import FORMAT, Artifact, ExportRequest, Manifest, ModelSource, Store
from ranvier.artifacts.optimum import OptimumConfig, check_wish, read_optimum_config
from ranvier.compose.cache_lookup import wish_of
from ranvier.config import LauncherConfig
from ranvier.config.cache import CacheConfig
from ranvier.core import Limits
from ranvier.errors import ArtifactError, ModelError, OptionError
from ranvier.models import read_json, spec_of
from ranvier.neuron_host import acquire, discover, format_cores
from ranvier.targets.nxd import FakeNxdModel, NxdModel, NxdPrograms, NxdShape, load_optimum, shape_of

_log = logging.getLogger(__name__)

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_ASKED = {
    "max_batch_size": "max_batch_size",
    "max_total_tokens": "max_total_tokens",
    "max_input_tokens": "max_input_tokens",
    "num_cores": "num_cores",
    "auto_cast_type": "auto_cast_type",
}


def optimum_artifact(source: ModelSource, revision: str | None = None) -> Artifact:
    """An exported directory as an artifact. Raises `ArtifactError` where it is damaged or cannot be driven."""
    config = read_optimum_config(source.path)
    _require_texts(source.path)
    manifest = Manifest(
        format=FORMAT,
        model_id=source.model_id,
        revision=revision,
        target="nxd",
        batch_size=config.batch_size,
        sequence_length=config.sequence_length,
        quantize="auto",
        dtype=_DTYPES[config.auto_cast_type],
        kv_cache_dtype="auto",
        weights_bytes=0,
        key={},
        weights_key="",
        ranvier_version=__version__,
    )
    return Artifact(source.path, manifest)


def _require_texts(directory: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            raise ArtifactError(
                f"{directory}: `{name}` is missing beside neuron_config.json; copy it from the checkpoint that was "
                "exported"
            )


def cache_query(config: LauncherConfig, model: str, subcommand: str = "lookup") -> CacheConfig:
    """What the launcher was asked for, as a question to the Neuron Model Cache."""
    asked = {theirs: getattr(config, ours) for ours, theirs in _ASKED.items()}
    return CacheConfig(
        subcommand=subcommand,
        model=model,
        revision=config.revision,
        hub_cache=config.hub_cache,
        sources=config.sources,
        **asked,
    )


def settle_optimum_limits(config: LauncherConfig, artifact: Artifact, root: Path = Path("/")) -> Limits:
    """The limits of an exported model, made narrower by what was asked for.

    Raises `ArtifactError`, with both values, when it cannot do what was asked.
    """
    exported = read_optimum_config(artifact.directory)
    wish = wish_of(cache_query(config, artifact.manifest.model_id), os.environ, root)
    # Versions have a check of their own, before the libraries are imported; a stand-in has none.
    wish = replace(wish, compiler_version=None, optimum_version=None)
    check_wish(exported, replace(wish, target=None, available_cores=None) if config.emulate_neuron else wish)
    _refuse_precision(config)
    shape = _shape(artifact)
    longest = min(config.max_input_tokens or shape.max_prompt, shape.max_prompt)
    return Limits(
        batch_size=min(config.max_batch_size or shape.batch_size, shape.batch_size),
        sequence_length=min(config.max_total_tokens or shape.sequence_length, shape.sequence_length),
        max_input_tokens=longest,
        max_batch_prefill_tokens=_prefill_tokens(config, shape, longest),
    )


def _refuse_precision(config: LauncherConfig) -> None:
    """What an exported model computes with was settled when it was exported."""
    for name in ("quantize", "dtype", "kv_cache_dtype"):
        given = getattr(config, name)
        if given != "auto":
            raise OptionError(
                f"`{name}` is {given}, and the exported model has its own; leave the option out (`auto_cast_type` is "
                "what an export is asked for)"
            )


def _prefill_tokens(config: LauncherConfig, shape: NxdShape, longest: int) -> int:
    """A prompt goes through one call, so a step must have room for the longest one, or for two of its chunks."""
    needed = min(longest, 2 * shape.prefill_chunk_size) if shape.prefill_chunk_size else longest
    given = config.max_batch_prefill_tokens
    if given is not None and given < needed:
        raise OptionError(
            f"`max_batch_prefill_tokens` must be >= {needed}: the exported model takes a prompt in one piece, or in "
            f"chunks of {shape.prefill_chunk_size}. Given: {given}"
        )
    return given or max(needed, 2 * shape.prefill_chunk_size)


def _shape(artifact: Artifact) -> NxdShape:
    document = read_json(artifact.directory / "neuron_config.json")
    return shape_of(document, spec_of(read_json(artifact.directory / "config.json")).vocab_size)


def load_nxd_programs(config: LauncherConfig, artifact: Artifact, root: Path = Path("/")) -> NxdPrograms:
    """Programs of an exported model, each run once. Raises a `SetupError` where they cannot run."""
    model = _stand_in(config, artifact) if config.emulate_neuron else _on_devices(artifact, root)
    programs = NxdPrograms(model)
    programs.warm_up()
    return programs


def _on_devices(artifact: Artifact, root: Path) -> NxdModel:
    host, shape = discover(root), _shape(artifact)
    for line in host.describe():
        _log.info("neuron host: %s", line)
    host.require_cores(shape.tp_degree)
    cores = format_cores(host.choice.ids or range(shape.tp_degree))
    return acquire(lambda: load_optimum(artifact.directory), cores, report=_log.warning)


def _stand_in(config: LauncherConfig, artifact: Artifact) -> NxdModel:
    _log.warning("the Neuron devices of this model are emulated on this machine's processor: not for speed")
    spec = spec_of(read_json(artifact.directory / "config.json"))
    return FakeNxdModel(spec, _stand_in_weights(config, artifact), _shape(artifact))


def _stand_in_weights(config: LauncherConfig, artifact: Artifact) -> Path:
    """The checkpoint's weights, packed into the local store: a processor cannot read what was cut for cores."""
    # Imported here: only a stand-in packs anything.
    from ranvier.compose.exporting import Reporter
    from ranvier.export import export_to_store

    request = ExportRequest(
        source=checkpoint_of(artifact.directory, read_optimum_config(artifact.directory), config.hub_cache),
        revision=None,
        target="cpu",
        batch_size=1,
        sequence_length=None,
        quantize="none",
        dtype="float32",
        kv_cache_dtype="auto",
    )
    store = Store(Path(config.artifact_cache))
    return export_to_store(request, store, Reporter(as_json=config.json_output)).weights_path


def checkpoint_of(directory: Path, config: OptimumConfig, hub_cache: str | None) -> ModelSource:
    """The weights that an export was made from: beside it, else where its `checkpoint_id` says.

    Raises `ModelError` where there are none.
    """
    if any(directory.glob("*.safetensors")):
        return ModelSource("checkpoint", directory, str(directory))
    if config.checkpoint_id is None:
        raise ModelError(
            f"{directory}: holds no checkpoint, and its neuron_config.json has no `checkpoint_id`; put the "
            "checkpoint's *.safetensors beside it"
        )
    # Imported here: this module is imported by those that find sources.
    from ranvier.compose.plan import find_source

    return find_source(config.checkpoint_id, config.checkpoint_revision, hub_cache)
