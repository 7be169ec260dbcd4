"""Reading and writing safetensors files without copies.

Format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}` padded with spaces,
then the data (https://github.com/huggingface/safetensors, "Format"). The library's NumPy reader has no bfloat16 and
its writer wants every tensor in memory at once, so both ends are here; bfloat16 is handed out as `uint16` bits.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np

from ranvier.errors import ModelError
from ranvier.models.weights import Array

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Found in quantized checkpoints and never written; FP8 is handed out as its bytes.
_DTYPES |= {"I32": np.dtype(np.int32), "I64": np.dtype(np.int64), "F8_E4M3": np.dtype(np.uint8)}
_MAX_HEADER_BYTES = 100_000_000
_HEADER_BYTES_PER_TENSOR = 224
_ALIGNMENT = 64


_Whole = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor in the header; `data_offsets` are bytes from the end of the header."""

    dtype: str
    shape: tuple[_Whole, ...]
    data_offsets: tuple[_Whole, _Whole]

    def is_consistent(self) -> bool:
        """Whether the bytes are as many as the shape takes; unknown dtypes are refused only when they are read."""
        size = self.data_offsets[1] - self.data_offsets[0]
        dtype = _DTYPES.get(self.dtype)
        return size >= 0 if dtype is None else size == math.prod(self.shape) * dtype.itemsize


class TensorFile:
    """A safetensors file, mapped. Arrays are read-only views that keep the mapping alive.

    Raises `ModelError` when the file is missing, not in this format, or shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header, self._data_start = _read_header(path)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names, in the header's order."""
        return tuple(self._header)

    def dtype_name(self, name: str) -> str:
        """The dtype as the header spells it, such as `BF16`."""
        return self._header[name].dtype

    def read(self, name: str) -> Array:
        """The tensor as a read-only view of the file; bfloat16 as `uint16` bits, FP8 as `uint8`."""
        dtype, shape, begin = self._placed(name)
        flat: Array = np.frombuffer(self._map, dtype, math.prod(shape), begin)
        shaped: Array = flat.reshape(shape)
        return shaped

    def load(self, name: str) -> Array:
        """The tensor in memory of its own: for a file that is gone through once and would fill memory if mapped."""
        dtype, shape, begin = self._placed(name)
        flat: Array = np.fromfile(self.path, dtype, math.prod(shape), offset=begin)
        if flat.size != math.prod(shape):
            raise ModelError(f"{self.path.name}: cut short while it was read; download the file again")
        shaped: Array = flat.reshape(shape)
        return shaped

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return self._header[name].shape

    def load_rows(self, name: str, start: int, stop: int) -> Array:
        """Rows `start` up to `stop`, or up to the last, in memory of their own. The tensor has two dimensions."""
        dtype, (num_rows, width), begin = self._placed(name)
        count = (min(stop, num_rows) - start) * width
        flat: Array = np.fromfile(self.path, dtype, count, offset=begin + start * width * dtype.itemsize)
        if flat.size != count:
            raise ModelError(f"{self.path.name}: cut short while it was read; download the file again")
        shaped: Array = flat.reshape(-1, width)
        return shaped

    def _placed(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
        entry = self._header[name]
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise ModelError(
                f"{self.path.name}: tensor `{name}` has dtype {entry.dtype}, which is not supported; "
                f"use {', '.join(_DTYPES)}"
            )
        return dtype, entry.shape, self._data_start + entry.data_offsets[0]


def _read_header(path: Path) -> tuple[dict[str, _Entry], int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, _MAX_HEADER_BYTES):
                raise ModelError(f"{path.name}: not a safetensors file, or cut short ({size} bytes); download it again")
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    header, start = _parse_header(path.name, text), 8 + length
    needed = start + max((entry.data_offsets[1] for entry in header.values()), default=0)
    if size < needed:
        raise ModelError(f"{path.name}: cut short: {size} bytes of {needed}; download the file again")
    return header, start


def _parse_header(file: str, text: bytes) -> dict[str, _Entry]:
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ModelError(f"{file}: the safetensors header is not a JSON object; download the file again") from None
    raw.pop("__metadata__", None)
    return {name: _parse_entry(file, name, entry) for name, entry in raw.items()}


def _parse_entry(file: str, name: str, text: msgspec.Raw) -> _Entry:
    try:
        entry = msgspec.json.decode(text, type=_Entry)
    except msgspec.MsgspecError:
        entry = None
    if entry is None or not entry.is_consistent():
        raise ModelError(f"{file}: the header's entry of tensor `{name}` is damaged; download the file again")
    return entry


class TensorWriter:
    """Writes a safetensors file tensor by tensor, so that only one is in memory at a time.

    Room for the header is left in front and filled when the writer closes without an exception.
    """

    def __init__(self, path: Path, num_tensors: int) -> None:
        self._room = -(-(num_tensors * _HEADER_BYTES_PER_TENSOR + 64) // _ALIGNMENT) * _ALIGNMENT - 8
        self._header: dict[str, object] = {}
        self._offset = 0
        self._file: BinaryIO = path.open("wb")
        self._file.seek(8 + self._room)

    def add(self, name: str, values: Array) -> None:
        """Append one tensor; `uint16` is written as bfloat16."""
        data: Array = np.asarray(values, order="C")
        end = self._offset + data.nbytes
        self._header[name] = {
            "dtype": _NAMES[data.dtype],
            "shape": list(data.shape),
            "data_offsets": [self._offset, end],
        }
        self._file.write(data.data)
        self._offset = end

    def __enter__(self) -> TensorWriter:
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Write the header after success; close the file either way."""
        with self._file:
            if kind is None:
                header = json.dumps(self._header, separators=(",", ":")).encode()
                assert len(header) <= self._room, "a tensor name is longer than the room left for the header"
                self._file.seek(0)
                self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))


def aligned(values: Array) -> Array:
    """The array itself when its memory starts on a 64-byte border, else a copy that does."""
    if values.ctypes.data % _ALIGNMENT == 0 and values.flags.c_contiguous:
        return values
    room = np.empty(values.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def total_bytes(paths: Iterable[Path]) -> int:
    """The size of the files together."""
    return sum(path.stat().st_size for path in paths)
