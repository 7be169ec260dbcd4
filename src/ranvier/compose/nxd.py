"""Wiring of models that optimum-neuron exported: on their devices, or on a stand-in for them."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from ranvier.artifacts import Artifact, ExportRequest, ModelSource, Store
from ranvier.artifacts.optimum import OptimumConfig, Wish, check_wish, read_optimum_config
from ranvier.compose.cache_lookup import wish_of
from ranvier.config import LauncherConfig, check_prefill_budget
from ranvier.config.cache import CacheConfig
from ranvier.core import Limits
from ranvier.errors import ArtifactError, ModelError, OptionError
from ranvier.models import DecoderSpec, read_json, spec_of
from ranvier.neuron_host import NeuronHost, acquire, core_environment, discover, format_cores
from ranvier.targets.nxd import FakeNxdModel, NxdModel, NxdPrograms, NxdShape, load_optimum, shape_of

_log = logging.getLogger(__name__)

_CASTS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_ASKED = {
    "max_batch_size": "max_batch_size",
    "max_total_tokens": "max_total_tokens",
    "max_input_tokens": "max_input_tokens",
    "num_cores": "num_cores",
    "auto_cast_type": "auto_cast_type",
}


def cache_query(config: LauncherConfig, model: str, subcommand: str = "lookup") -> CacheConfig:
    """What the launcher was asked for, as a question to the Neuron Model Cache; `dtype` is its name of the type."""
    asked = {theirs: getattr(config, ours) for ours, theirs in _ASKED.items()}
    sources = dict(config.sources)
    if config.auto_cast_type is None and config.dtype != "auto":
        asked["auto_cast_type"] = _CASTS[config.dtype]
        sources["auto_cast_type"] = sources.get("dtype", "`dtype`")
    return CacheConfig(
        subcommand=subcommand,
        model=model,
        revision=config.revision,
        hub_cache=config.hub_cache,
        sources=sources,
        **asked,
    )


def settle_optimum_limits(config: LauncherConfig, artifact: Artifact, root: Path = Path("/")) -> Limits:
    """The limits of an exported model, made narrower by what was asked for.

    Raises `ArtifactError`, with both values, when it cannot do what was asked.
    """
    exported = read_optimum_config(artifact.directory)
    check_precision(config, exported)
    if not config.emulate_neuron:
        _check_host(exported, discover(root))
    check_wish(exported, _wish(config, artifact, root))
    shape = _shape(artifact)
    sequence_length = min(config.max_total_tokens or shape.sequence_length, shape.sequence_length)
    if sequence_length < 2:
        raise OptionError(
            f"{config.sources.get('max_total_tokens', '`max_total_tokens`')} must be > 1: a prompt and a token after "
            f"it. Given: {sequence_length}"
        )
    # What was asked for has been checked, so only what was not is cut here.
    longest = min(config.max_input_tokens or shape.max_prompt, shape.max_prompt, sequence_length - 1)
    return Limits(
        batch_size=min(config.max_batch_size or shape.batch_size, shape.batch_size),
        sequence_length=sequence_length,
        max_input_tokens=longest,
        max_batch_prefill_tokens=_prefill_tokens(config, shape, longest),
    )


def _wish(config: LauncherConfig, artifact: Artifact, root: Path) -> Wish:
    """What an exported model has to satisfy."""
    wish = wish_of(cache_query(config, artifact.manifest.model_id), os.environ, root)
    # Versions have a check of their own, before the libraries are imported; a stand-in has none.
    wish = replace(wish, compiler_version=None, optimum_version=None)
    if config.emulate_neuron:
        wish = replace(wish, target=None, available_cores=None)
    if artifact.manifest.key:
        # An entry of the cache may take more cores than were asked for.
        wish = replace(wish, num_cores=None)
    return replace(wish, sources={**wish.sources, "available_cores": "what this process can use"})


def check_precision(config: LauncherConfig, exported: OptimumConfig) -> None:
    """Raise `OptionError`, with both values, for a precision that the exported model does not have."""
    own = {"quantize": "none", "dtype": exported.dtype, "kv_cache_dtype": exported.dtype}
    for name, value in own.items():
        given = getattr(config, name)
        if given not in ("auto", value):
            raise OptionError(
                f"{config.sources.get(name, f'`{name}`')} is {given}, and `{name}` of the exported model is {value}; "
                "leave the option out (`auto_cast_type` is what an export is asked for)"
            )


def _check_host(exported: OptimumConfig, host: NeuronHost) -> None:
    """Refuse a host without devices, and cores that a variable of the runtime hides; `check_wish` counts the others."""
    if not host.usable_devices or exported.world_size <= host.num_cores:
        host.require_cores(exported.world_size)


def _prefill_tokens(config: LauncherConfig, shape: NxdShape, longest: int) -> int:
    """A prompt goes through one call, so a step must have room for the longest one, or for two of its chunks."""
    given = config.max_batch_prefill_tokens
    if not shape.prefill_chunk_size:
        check_prefill_budget(max_batch_prefill_tokens=given or longest, max_input_tokens=longest)
        return given or longest
    needed = min(longest, 2 * shape.prefill_chunk_size)
    if given is not None and given < needed:
        raise OptionError(
            f"{config.sources.get('max_batch_prefill_tokens', '`max_batch_prefill_tokens`')} is {given}, and must be "
            f">= {needed}: `prefill_chunk_size` of the exported model is {shape.prefill_chunk_size}"
        )
    return given or max(needed, 2 * shape.prefill_chunk_size)


def _shape(artifact: Artifact) -> NxdShape:
    """Without `vocab_size`: optimum-neuron has model families of which only it knows more."""
    return shape_of(read_json(artifact.directory / "neuron_config.json"), 1)


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
    os.environ |= core_environment(host, shape.tp_degree)
    cores = format_cores((host.choice.ids or range(host.num_cores))[: shape.tp_degree])
    return acquire(lambda: load_optimum(artifact.directory), cores, report=_log.warning)


def _stand_in(config: LauncherConfig, artifact: Artifact) -> NxdModel:
    _log.warning("the Neuron devices of this model are emulated on this machine's processor: not for speed")
    spec = spec_of(read_json(artifact.directory / "config.json"))
    shape = replace(_shape(artifact), vocab_size=spec.vocab_size)
    _require_memory(spec, shape)
    return FakeNxdModel(spec, _stand_in_weights(config, artifact), shape)


def _require_memory(spec: DecoderSpec, shape: NxdShape) -> None:
    """Raise `ArtifactError` where the KV cache of devices does not fit into this host."""
    # Imported here: on devices the engine's environment has nothing that exports.
    from ranvier.export.process_memory import host_bytes

    tokens = shape.batch_size * shape.sequence_length
    needed, available = 2 * 4 * spec.num_layers * spec.num_kv_heads * spec.head_dim * tokens, host_bytes()
    if available is not None and needed > available:
        raise ArtifactError(
            f"neuron_config.json: `batch_size` {shape.batch_size} x `sequence_length` {shape.sequence_length} takes "
            f"{needed / 2**30:.1f} GiB to emulate, and this host has {available / 2**30:.1f} GiB; serve it on its "
            "devices, or export a smaller one"
        )


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

    try:
        source = find_source(config.checkpoint_id, config.checkpoint_revision, hub_cache)
    except ModelError as error:
        raise ModelError(
            f"{directory}: `checkpoint_id` of its neuron_config.json is {config.checkpoint_id}: {error}"
        ) from None
    if source.kind != "checkpoint":
        raise ModelError(
            f"{directory}: `checkpoint_id` of its neuron_config.json is {config.checkpoint_id}, which is no "
            "checkpoint; put the checkpoint's *.safetensors beside it"
        )
    return source
