"""A checkpoint: configuration, tensor names, and tensors read one at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from ranvier.errors import ModelError
from ranvier.models.tensor_file import TensorFile
from ranvier.models.weights import Dense, Weight


class Checkpoint(Protocol):
    """Where weights come from. Names are those of the Hugging Face checkpoint."""

    @property
    def config(self) -> Mapping[str, object]:
        """The Hugging Face `config.json`."""
        ...

    def names(self) -> frozenset[str]:
        """Every tensor there is."""
        ...

    def read(self, name: str) -> Weight:
        """One tensor in the most exact form that it can be held in."""
        ...

    def was_quantized(self, name: str) -> bool:
        """Whether the tensor had fewer than 16 bits a value, so that int8 codes lose next to nothing."""
        ...


class SafetensorsCheckpoint:
    """A directory with `config.json` and `model.safetensors`, or several files and their index.

    Raises `ModelError` for a missing or damaged file and for pickled weights.
    """

    def __init__(self, directory: Path) -> None:
        self._config = read_json(directory / "config.json")
        self._files = {name: file for file in _open_all(directory) for name in file.names}

    @property
    def config(self) -> Mapping[str, object]:
        """The parsed `config.json`."""
        return self._config

    def names(self) -> frozenset[str]:
        """Tensor names of all files."""
        return frozenset(self._files)

    def read(self, name: str) -> Weight:
        """The tensor, dense; float16 is widened to float32, which is exact."""
        values = self._files[name].read(name)
        if values.dtype not in (np.float32, np.float16, np.uint16):
            raise ModelError(f"tensor `{name}` holds {values.dtype}; quantized safetensors are not supported yet")
        return Dense(values.astype(np.float32) if values.dtype == np.float16 else values)

    def was_quantized(self, name: str) -> bool:
        """Never: dense files only."""
        return False


def _open_all(directory: Path) -> list[TensorFile]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index.name}: `weight_map` must be an object")
        return [TensorFile(directory / _plain(index, file)) for file in sorted({str(f) for f in weight_map.values()})]
    single = directory / "model.safetensors"
    if single.exists():
        return [TensorFile(single)]
    found = sorted(directory.glob("*.safetensors"))
    if found:
        return [TensorFile(path) for path in found]
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")):
        raise ModelError(
            f"{directory}: holds pickled weights (.bin, .pt), which can run code when loaded; "
            "convert them to safetensors"
        )
    raise ModelError(f"{directory}: holds no weights; `model.safetensors` (or its index and parts) is needed")


def _plain(index: Path, file: str) -> str:
    """The file's name, once it is known to lead nowhere else: an index comes with the model, from anybody."""
    if Path(file).name != file:
        raise ModelError(f"{index.name}: `weight_map` names {file!r}; a file beside the index is needed")
    return file


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file. Raises `ModelError` when it is missing, not JSON, or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent}: `{path.name}` is missing") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise ModelError(f"{path}: not valid JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is needed")
    return value
