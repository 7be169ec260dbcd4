"""A checkpoint: configuration, tensor names, and tensors read one at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ranvier.errors import ModelError
from ranvier.models.quantized_formats import OPTIONAL, UNUSED, format_of
from ranvier.models.tensor_file import TensorFile
from ranvier.models.weights import Array, Dense, Weight, dequantize


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


class DequantizedCheckpoint:
    """A checkpoint as if its author had never quantized it: what the codes stand for, as dense float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._inner = checkpoint

    @property
    def config(self) -> Mapping[str, object]:
        """The config of the checkpoint itself."""
        return self._inner.config

    def names(self) -> frozenset[str]:
        """Every tensor there is."""
        return self._inner.names()

    def read(self, name: str) -> Weight:
        """One tensor, dense."""
        weight = self._inner.read(name)
        return weight if isinstance(weight, Dense) else Dense(dequantize(weight))

    def was_quantized(self, name: str) -> bool:
        """Never."""
        return False


class SafetensorsCheckpoint:
    """A directory with `config.json` and `model.safetensors`, or several files and their index.

    Raises `ModelError` for a missing or damaged file, for pickled weights and for a quantization that cannot be held.
    """

    def __init__(self, directory: Path) -> None:
        self._config = read_json(directory / "config.json")
        self._files = _files_by_name(directory)
        self._format = format_of(self._config)
        marker = None if self._format is None else f".{self._format.marker}"
        bases = () if marker is None else (name.removesuffix(marker) for name in self._files if name.endswith(marker))
        self._quantized = {f"{base}.weight": base for base in bases}

    @property
    def config(self) -> Mapping[str, object]:
        """The parsed `config.json`."""
        return self._config

    def names(self) -> frozenset[str]:
        """Tensor names of all files; the parts of a quantized matrix count as one, its `.weight`."""
        if self._format is None:
            return frozenset(self._files)
        parts = {f"{base}.{part}" for base in self._quantized.values() for part in self._format.parts}
        unused = {name for name in self._files if name.rpartition(".")[2] in UNUSED}
        return (frozenset(self._files) - parts - unused) | self._quantized.keys()

    def read(self, name: str) -> Weight:
        """The tensor: codes and scales where it was quantized and they can be held, dense otherwise.

        float16 is widened to float32, which is exact.
        """
        base = self._quantized.get(name)
        if self._format is not None and base is not None:
            return self._format.read(name, self._parts(base, self._format.parts))
        return Dense(_widened(name, self._files[name].load(name)))

    def read_rows(self, name: str) -> Dense | None:
        """A dense matrix whose values can only be cut into rows, which are read when they are cut.

        None for tensors that are no matrix, or quantized: they have to be read whole.
        """
        file = self._files.get(name)
        if file is None or name in self._quantized or len(file.shape(name)) != 2:
            return None
        return Dense(cast(Array, _RowsOfFile(file, name)))

    def _parts(self, base: str, parts: tuple[str, ...]) -> dict[str, Array]:
        there = {part: f"{base}.{part}" for part in parts if f"{base}.{part}" in self._files}
        missing = [part for part in parts if part not in there and part not in OPTIONAL]
        if missing:
            raise ModelError(f"the checkpoint lacks `{base}.{missing[0]}`, a part of a quantized matrix")
        return {part: self._files[name].load(name) for part, name in there.items()}

    def was_quantized(self, name: str) -> bool:
        """Whether the matrix is one that the checkpoint's `quantization_config` is about."""
        return name in self._quantized


class _RowsOfFile:
    """Stands for a matrix where nothing is asked of it but its shape, its type and some of its rows."""

    def __init__(self, file: TensorFile, name: str) -> None:
        self._file = file
        self._name = name
        self.shape = file.shape(name)
        self.dtype = self[0:1].dtype

    def __getitem__(self, rows: slice) -> Array:
        return _widened(self._name, self._file.load_rows(self._name, rows.start, rows.stop))


def _widened(name: str, values: Array) -> Array:
    """float32 values or bfloat16 bits; float16 becomes float32, which is exact."""
    if values.dtype not in (np.float32, np.float16, np.uint16):
        raise ModelError(
            f"tensor `{name}` holds {values.dtype}, and `quantization_config` in `config.json` does not say of it "
            "how it was quantized"
        )
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _files_by_name(directory: Path) -> dict[str, TensorFile]:
    """The file of each tensor. Raises `ModelError` for one that is in two files."""
    files: dict[str, TensorFile] = {}
    for file in _open_all(directory):
        for name in file.names:
            if name in files:
                raise ModelError(f"tensor `{name}` is both in {files[name].path.name} and in {file.path.name}")
            files[name] = file
    return files


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
