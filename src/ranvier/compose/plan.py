"""What the launcher settles and hands to the router and engine processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ranvier.artifacts import (
    DTYPES,
    AdapterSource,
    Artifact,
    ExportRequest,
    Manifest,
    ModelSource,
    Store,
    found_in,
    is_artifact,
    locate,
    locate_adapters,
    open_artifact,
)
from ranvier.compose.formats import check_format, our_format
from ranvier.compose.neuron_wish import neuron_wish, without_effect
from ranvier.config import ExportConfig, LauncherConfig
from ranvier.core import Limits
from ranvier.errors import ArtifactError, ModelError, OptionError

_log = logging.getLogger(__name__)

DEFAULT_PREFILL_TOKENS = 512
"""Prompt tokens a step may prefill unless told otherwise: enough to keep the processor's products large, few enough
that requests which are being decoded do not wait long for a neighbour's prompt."""

ADAPTER_TARGETS = ("cpu", "scripted")
"""Targets that can load adapters; the engines of others have none in their capabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePlan:
    """Everything a child process needs. `config` is `LauncherConfig.to_json()`: it may hold the API key."""

    config: str
    artifact_directory: str
    limits: Limits
    socket_path: str
    adapters: tuple[AdapterSource, ...] = ()

    @property
    def tokenizer_json(self) -> Path:
        """The artifact's tokenizer."""
        return Path(self.artifact_directory) / "tokenizer.json"

    def launcher_config(self) -> LauncherConfig:
        """The config again."""
        return LauncherConfig.from_json(self.config)

    def to_json(self) -> bytes:
        """As it goes through the child's standard input."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> ServePlan:
        """What `to_json` gave."""
        return msgspec.json.decode(data, type=cls)


def settle_limits(config: LauncherConfig, manifest: Manifest) -> Limits:
    """The static limits: the artifact's, with what the command line adds.

    Raises `ArtifactError` when they contradict each other and `OptionError` for impossible values.
    """
    if manifest.neuron is not None:
        _same("num_cores", config.num_cores, manifest.neuron.num_cores, config)
        _same("auto_cast_type", config.auto_cast_type, manifest.neuron.auto_cast_type, config)
    _same("max_batch_size", config.max_batch_size, manifest.batch_size, config)
    _same("max_total_tokens", config.max_total_tokens, manifest.sequence_length, config)
    for field in ("quantize", "dtype", "kv_cache_dtype"):
        given = our_format(getattr(config, field))
        _same(field, None if given == "auto" else given, getattr(manifest, field), config)
    max_input = config.max_input_tokens or manifest.sequence_length - 1
    if max_input >= manifest.sequence_length:
        source = _source("max_input_tokens", config)
        raise OptionError(
            f"`max_input_tokens` must be < `max_total_tokens`. Given: {max_input} by {source}, and "
            f"{manifest.sequence_length}, for which the artifact was exported"
        )
    return Limits(
        batch_size=manifest.batch_size,
        sequence_length=manifest.sequence_length,
        max_input_tokens=max_input,
        max_batch_prefill_tokens=config.max_batch_prefill_tokens or DEFAULT_PREFILL_TOKENS,
    )


def _same(field: str, given: object, made_for: object, config: LauncherConfig) -> None:
    if given is not None and given != made_for:
        raise ArtifactError(
            f"`{field}` is {given} by {_source(field, config)}, but the artifact was exported for {made_for}; "
            "leave the option out or export the model again"
        )


def _source(field: str, config: LauncherConfig) -> str:
    return config.sources.get(field, "the command line")


def find_source(model_id: str | None, revision: str | None, hub_cache: str | None) -> ModelSource:
    """What the model id names, downloaded where it is on the hub. Raises `ModelError`."""
    if model_id is None:
        raise ModelError(
            "`model_id` is missing; give `--model-id` a checkpoint directory, a .gguf file, an exported artifact, "
            "package:NAME or a hub id"
        )
    source = locate(model_id)
    if source.kind != "hub":
        return source
    # Imported here: only a hub id needs the client, and it costs start-up time.
    from ranvier.artifacts.hub import download

    return found_in(download(model_id, revision, hub_cache), model_id)


def prepare_artifact(config: LauncherConfig) -> Artifact:
    """The artifact to serve: the one named, or one exported into the local store now or earlier.

    Raises a `SetupError`.
    """
    source = find_source(config.model_id, config.revision, config.hub_cache)
    if source.kind == "artifact":
        return open_artifact(source.path)
    if source.kind == "optimum" or config.target == "nxd":
        return _optimum(config, source)
    request = _request(config, source, config.max_batch_size, config.max_total_tokens)
    if request.neuron is not None:
        # Imported here: only this target has anything to check before its export, which takes long.
        from ranvier.export.neuron import check_request

        check_request(request)
    store = Store(Path(config.artifact_cache))
    found = store.find(request.name, request.key())
    if found is not None:
        return found
    # Imported here: a start from a finished artifact must not pay for the exporter.
    from ranvier.compose.exporting import Reporter
    from ranvier.export import export_to_store

    with Reporter(as_json=config.json_output) as reporter:
        return export_to_store(request, store, reporter, reporter.program)


def _optimum(config: LauncherConfig, source: ModelSource) -> Artifact:
    """A model that optimum-neuron exported, or a checkpoint that it exports now as the cache has it."""
    # Imported here: only this target needs them.
    if source.kind == "optimum":
        from ranvier.compose.nxd_directory import optimum_artifact, with_texts

        return optimum_artifact(with_texts(config, source), config.revision)
    if source.kind == "gguf":
        raise ModelError(f"`model_id` {source.model_id}: target nxd exports checkpoints, not GGUF files")
    from ranvier.compose.nxd_export import check_nxd_host, export_from_cache

    check_nxd_host(config)
    return export_from_cache(config, source)


def open_any(directory: Path, config: LauncherConfig) -> Artifact:
    """Open an artifact, or a model that optimum-neuron exported: it does not know its name, which `config` has.

    Raises `ArtifactError`.
    """
    if is_artifact(directory):
        return open_artifact(directory)
    from ranvier.compose.nxd_directory import optimum_artifact

    return optimum_artifact(found_in(directory, config.model_id or str(directory)), config.revision)


def limits_of(config: LauncherConfig, artifact: Artifact) -> Limits:
    """The static limits of what is served. Raises a `SetupError` when they contradict what was asked for."""
    if artifact.manifest.target != "nxd":
        return settle_limits(config, artifact.manifest)
    from ranvier.compose.nxd import settle_optimum_limits

    return settle_optimum_limits(config, artifact)


def with_target(config: LauncherConfig, artifact: Artifact) -> LauncherConfig:
    """The config with the artifact's target. Raises `ArtifactError` when another one was asked for."""
    made_for = artifact.manifest.target
    if config.sources.get("target", "default") != "default":
        _same("target", config.target, made_for, config)
    return replace(config, target=made_for)


def find_adapters(config: LauncherConfig, artifact: Artifact) -> tuple[AdapterSource, ...]:
    """The adapters to load beside the model, downloaded where they are on the hub. Raises a `SetupError`."""
    if config.lora_adapters and config.target not in ADAPTER_TARGETS:
        raise OptionError(
            f"`lora_adapters` is not served by target {config.target}; merge the adapter into the model, "
            f"or give `--target {ADAPTER_TARGETS[0]}`"
        )
    return locate_adapters(config.lora_adapters, artifact.manifest.model_id, config.hub_cache)


def export_artifact(config: ExportConfig) -> Artifact:
    """Carry out `ranvier export`. Raises a `SetupError`."""
    if config.target == "nxd":
        raise OptionError(
            "`target` nxd: such models are exported by `optimum-cli export neuron`, or by `ranvier serve --target nxd` "
            "as the Neuron Model Cache has them; give `--target neuron` to export without optimum-neuron"
        )
    from ranvier.compose.exporting import Reporter
    from ranvier.export import export

    for sentence in without_effect(config):
        _log.warning("%s", sentence)
    source = find_source(config.model_id, config.revision, None)
    request = _request(config, source, config.batch_size, config.sequence_length)
    with Reporter(as_json=False, as_lines=True) as reporter:
        return export(request, Path(config.output).absolute(), reporter, report=reporter.program)


def _request(
    config: LauncherConfig | ExportConfig, source: ModelSource, batch_size: int | None, sequence_length: int | None
) -> ExportRequest:
    check_format(config.quantize, source)
    wish = neuron_wish(config)
    return ExportRequest(
        source=source,
        revision=config.revision,
        target=config.target,
        batch_size=batch_size,
        sequence_length=sequence_length,
        quantize=our_format(config.quantize),
        # An artifact says in what it computes.
        dtype=DTYPES[wish.auto_cast_type] if wish else config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        neuron=wish,
    )
