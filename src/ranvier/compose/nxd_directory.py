"""A directory that optimum-neuron exported, as an artifact, with a tokenizer from its checkpoint where it has none.

The router opens artifacts too, so nothing here may need NumPy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from ranvier import __version__
from ranvier.artifacts import FORMAT, Artifact, Manifest, ModelSource, Store, locate, publish
from ranvier.artifacts.optimum import OptimumConfig, is_optimum_model, read_optimum_config
from ranvier.config import LauncherConfig
from ranvier.errors import ArtifactError, ModelError

_TOKENIZER = "tokenizer.json"
_OTHERS = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja", "special_tokens_map.json")


def optimum_artifact(
    source: ModelSource, revision: str | None = None, key: Mapping[str, str] | None = None
) -> Artifact:
    """An exported directory as an artifact. Raises `ArtifactError` where it is damaged or cannot be driven.

    `key`: what it was exported from, where that was done here, with the values of a cache's entry.
    """
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
        dtype=config.dtype,
        kv_cache_dtype="auto",
        weights_bytes=0,
        key=dict(key or {}),
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


def with_texts(config: LauncherConfig, source: ModelSource) -> ModelSource:
    """The exported directory itself, or one in the local store that links to its files and has a tokenizer too.

    Raises `ArtifactError` when the checkpoint that `checkpoint_id` names has no tokenizer.json either.
    """
    if (source.path / _TOKENIZER).is_file():
        return source
    texts = _texts(source.path, read_optimum_config(source.path), config.hub_cache)
    files = {path.name: path for path in source.path.iterdir()}
    key = {name: str(path) for name, path in {**texts, **files}.items()}
    store = Store(Path(config.artifact_cache))
    directory = store.directory(f"{Path(source.model_id).name}-nxd", key)
    with store.locked():
        if not is_optimum_model(directory):
            store.discard(directory)
            _link({**texts, **files}, directory)
    return ModelSource("optimum", directory, source.model_id)


def _link(files: Mapping[str, Path], directory: Path) -> None:
    with publish(directory) as building:
        for name, path in files.items():
            (building / name).symlink_to(path)


def _texts(directory: Path, exported: OptimumConfig, hub_cache: str | None) -> dict[str, Path]:
    """The checkpoint's texts by name; nothing else of it is downloaded."""
    if exported.checkpoint_id is None:
        raise ArtifactError(
            f"{directory}: `{_TOKENIZER}` is missing beside neuron_config.json, which has no `checkpoint_id` either; "
            "copy it from the checkpoint that was exported"
        )
    try:
        found = _found(exported.checkpoint_id, exported.checkpoint_revision, hub_cache)
    except ModelError as error:
        raise ArtifactError(
            f"{directory}: `{_TOKENIZER}` is missing beside neuron_config.json, and cannot be taken from the "
            f"checkpoint that was exported: {error}"
        ) from None
    return found


def _found(model_id: str, revision: str | None, hub_cache: str | None) -> dict[str, Path]:
    source = locate(model_id)
    if source.kind != "hub":
        found = {name: source.path / name for name in (_TOKENIZER, *_OTHERS) if (source.path / name).is_file()}
        if _TOKENIZER not in found:
            raise ModelError(f"{source.path} has no `{_TOKENIZER}`; put one beside neuron_config.json")
        return found
    # Imported here: only a hub id needs the client.
    from ranvier.artifacts.hub import read_file

    found = {_TOKENIZER: read_file(model_id, revision, _TOKENIZER, hub_cache, option="checkpoint_id")}
    for name in _OTHERS:
        # The tokenizer was found there, so what fails now is not there.
        with contextlib.suppress(ModelError):
            found[name] = read_file(model_id, revision, name, hub_cache, option="checkpoint_id")
    return found
