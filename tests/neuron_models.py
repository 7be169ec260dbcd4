"""Models as optimum-neuron leaves them, small enough for tests, and what a repository on the hub has of them.

`write_neuron_model` writes what the stand-in needs of an export: texts and `neuron_config.json`; the weights are where
`checkpoint_id` says, or beside it. `registry_files` is a cache repository with entries for a tiny model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimum_entries import REGISTRY, neuron
from ranvier.artifacts.optimum import arch_digest, architecture, entry_digest, entry_text, name_folder
from tiny_checkpoints import TinyModel, write_checkpoint

SHAPE: dict[str, Any] = {
    "batch_size": 2,
    "max_batch_size": 2,
    "sequence_length": 64,
    "torch_dtype": "float32",
    "on_device_sampling": False,
    "checkpoint_id": None,
    "checkpoint_revision": None,
}
"""Two slots of 64 tokens, logits to the host, no word about the weights."""


def neuron_document(**changes: object) -> dict[str, object]:
    """A neuron_config.json of `SHAPE`."""
    return neuron(**{**SHAPE, **changes})


def write_neuron_model(
    directory: Path, model: TinyModel | None = None, *, with_weights: bool = False, **changes: object
) -> Path:
    """An exported directory. Returns it."""
    write_checkpoint(directory, model or TinyModel())
    if not with_weights:
        for file in directory.glob("*.safetensors*"):
            file.unlink()
    (directory / "model.pt").write_bytes(b"graphs")
    (directory / "neuron_config.json").write_text(json.dumps(neuron_document(**changes)), encoding="utf-8")
    return directory


def files_below(directory: Path) -> dict[str, bytes]:
    """What a hub repository with this content has."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def checkpoint_files(directory: Path, model: TinyModel | None = None) -> dict[str, bytes]:
    """A standard checkpoint as a hub repository has it. `directory` is only used meanwhile."""
    files = files_below(write_checkpoint(directory, model or TinyModel()))
    shutil.rmtree(directory)
    return files


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """The same on disk."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def registry_files(
    model: TinyModel, model_id: str, entries: Sequence[Mapping[str, object]], registry: str = REGISTRY
) -> dict[str, bytes]:
    """Registry entries of a cache repository, each below the digest and, again, below the name.

    `entries` are changes to `SHAPE`.
    """
    fields, files = architecture(model.config()), {}
    for changes in entries:
        text = entry_text(fields, neuron_document(checkpoint_id=model_id, **changes), model_id)
        for folder in (arch_digest(fields), name_folder(fields, model_id)):
            files[f"{registry}/{folder}/{entry_digest(text)}.json"] = text.encode()
    return files
