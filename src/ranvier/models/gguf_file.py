"""GGUF files: metadata as a Hugging Face config, tensors under Hugging Face names. The only door to `gguf`.

Block layouts are those of ggml (https://github.com/ggml-org/ggml, `ggml-common.h`); the `gguf` package reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from gguf import quants as gguf_quants

from ranvier.errors import ModelError
from ranvier.models.families import family_of
from ranvier.models.gguf_architectures import architecture_of
from ranvier.models.gguf_fields import GgufFields
from ranvier.models.gguf_tensors import ROPE_FACTORS, GgufNames, GgufTensors
from ranvier.models.weights import Array, Dense, FloatArray, Int4, Int8, Weight, pack_nibbles

_BLOCK = 32
_MAX_ENTRIES = 1 << 22
"""Of an array in the metadata; the largest vocabularies have a few hundred thousand tokens and merges."""

_ARRAY_HEAD, _LENGTH = 12, 8
"""Bytes before the entries of an array (their type and their number), and of a text's length."""
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big") if sys.byteorder == "little" else ("big", "little")
"""This machine's order of bytes, and the other."""

_DENSE_TYPES = ("F32", "F16", "BF16")


class GgufCheckpoint:
    """A `.gguf` file as a checkpoint.

    Raises `ModelError` when it is missing, not GGUF, cut short, or of an architecture that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self._reader = _open(path)
        self._name = path.name
        stored = {tensor.name: tensor for tensor in self._reader.tensors}
        fields = GgufFields(file=path.name, value=self._value, tensors=stored)
        architecture = architecture_of(fields)
        self._config = architecture.config(fields)
        family = family_of(self._config)
        spec = family.spec_from_config(self._config)
        names = GgufNames(family, spec, frozenset(stored))
        self._stems = {names.full(name): names.stem(name) for name in stored if name not in ROPE_FACTORS}
        self._tensors = {names.full(name): stored[name] for name in stored if name not in ROPE_FACTORS}
        self._restored = GgufTensors(path.name, architecture, spec)

    @property
    def config(self) -> Mapping[str, object]:
        """The `config.json` that describes the same model."""
        return self._config

    @property
    def metadata(self) -> Mapping[str, object]:
        """Every key-value pair of the file, arrays as lists."""
        return {key: self._value(key) for key in self._reader.fields}

    def names(self) -> frozenset[str]:
        """Tensor names as the Hugging Face checkpoint has them."""
        return frozenset(self._tensors)

    def read(self, name: str) -> Weight:
        """The tensor: Q4_0, Q4_1 and Q8_0 blocks as codes and scales, exactly; other kinds as float32."""
        tensor = self._tensors[name]
        kind = tensor.tensor_type.name
        if not tensor.n_elements:
            raise ModelError(f"{self._name}: tensor `{name}` is empty; the file is damaged")
        if kind in _EXACT and len(tensor.shape) == 2:
            weight: Weight = _EXACT[kind](tensor.data.reshape(int(tensor.shape[1]), -1))
        else:
            weight = Dense(self._dequantize(name))
        return self._restored.restore(name, self._stems[name], weight)

    def was_quantized(self, name: str) -> bool:
        """Whether the tensor is held in blocks of codes."""
        return self._tensors[name].tensor_type.name not in _DENSE_TYPES

    def _dequantize(self, name: str) -> FloatArray:
        tensor = self._tensors[name]
        try:
            values = gguf_quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise ModelError(
                f"{self._name}: tensor `{name}` has type {tensor.tensor_type.name}, which cannot be read; "
                "use a file in Q4_0, Q4_1, Q8_0, F16, BF16, F32 or K-quants"
            ) from None
        return np.asarray(values, np.float32).reshape(tuple(int(size) for size in tensor.shape[::-1]))

    def _value(self, key: str) -> object:
        field = self._reader.fields.get(key)
        try:
            return None if field is None else field.contents()
        except (UnicodeDecodeError, IndexError, ValueError):
            raise ModelError(f"{self._name}: `{key}` is damaged; download the file again") from None


class _BoundedReader(GGUFReader):  # type: ignore[misc]  # the package is read untyped
    """The package's reader, made to stop where the file does.

    It takes what lies beyond the end as empty: a damaged length would keep it busy with entries of no bytes.
    """

    def _get(self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: str | None = None) -> Array:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("a length points beyond the end of the file")
        values: Array = super()._get(offset, dtype, count, override_order)
        return values

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        head = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
        kind, count = GGUFValueType(int(head[0][0])), int(head[1][0])
        if count > _MAX_ENTRIES:
            raise ValueError(f"an array of {count} entries")
        types, start = [GGUFValueType.ARRAY, kind], orig_offs + _ARRAY_HEAD
        dtype = self.gguf_scalar_to_np.get(kind)
        if dtype is not None:
            values = self._get(start, dtype, count)
            return _ARRAY_HEAD + int(values.nbytes), [*head, values], [len(head)], types
        if kind != GGUFValueType.STRING:
            return super()._get_field_parts(orig_offs, raw_type)
        texts = self._texts(start, count)
        size = sum(len(text) for text in texts) + count * _LENGTH
        return _ARRAY_HEAD + size, [*head, *texts], list(range(len(head), len(head) + count)), types

    def _texts(self, start: int, count: int) -> list[npt.NDArray[np.uint8]]:
        """`count` texts, each behind its length. The package takes 12 s for the 262,144 of a large vocabulary."""
        data = np.asarray(self.data)
        raw, order = data.data, _ORDERS[self.byte_order == "S"]
        texts = []
        for _ in range(count):
            begin = start + _LENGTH
            start = begin + int.from_bytes(raw[start:begin], order)
            if start > len(raw):
                raise ValueError("a length points beyond the end of the file")
            texts.append(data[begin:start])
        return texts


def _open(path: Path) -> GGUFReader:
    try:
        return _BoundedReader(path)
    except FileNotFoundError:
        raise ModelError(f"cannot read {path}: no such file") from None
    except (ValueError, IndexError, KeyError, OverflowError, TypeError, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name}: not a GGUF file, or cut short ({error}); download it again") from None


def _half(block: npt.NDArray[np.uint8]) -> FloatArray:
    return np.ascontiguousarray(block).view(np.float16)[..., 0].astype(np.float32)


def _nibble_halves(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Ggml keeps values 0-15 of a block in the low nibbles and 16-31 in the high ones."""
    codes = np.concatenate([packed & 15, packed >> 4], axis=-1)
    return pack_nibbles(codes).reshape(codes.shape[0], -1)


def _q4_0(data: npt.NDArray[np.uint8]) -> Int4:
    """Blocks of `f16 scale, 16 bytes`: value = (code - 8) * scale."""
    blocks = data.reshape(data.shape[0], -1, 2 + _BLOCK // 2)
    scales = _half(blocks[..., :2])
    return Int4(_nibble_halves(blocks[..., 2:]), scales, np.full(scales.shape, 8, np.uint8))


def _q4_1(data: npt.NDArray[np.uint8]) -> Int4:
    """Blocks of `f16 scale, f16 minimum, 16 bytes`: value = code * scale + minimum, so zero = -minimum / scale."""
    blocks = data.reshape(data.shape[0], -1, 4 + _BLOCK // 2)
    scales, minima = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    # A block of equal values has scale 0: any scale does, as long as code 0 gives the minimum.
    flat = scales == 0
    safe = np.where(flat, np.where(minima == 0, np.float32(1), -minima), scales)
    codes = np.where(flat[..., None], np.uint8(0), blocks[..., 4:])
    return Int4(_nibble_halves(codes), safe, (-minima / safe).astype(np.float32))


def _q8_0(data: npt.NDArray[np.uint8]) -> Int8:
    """Blocks of `f16 scale, 32 signed bytes`."""
    blocks = data.reshape(data.shape[0], -1, 2 + _BLOCK)
    codes = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(data.shape[0], -1)
    return Int8(codes, _half(blocks[..., :2]))


_EXACT: dict[str, Callable[[npt.NDArray[np.uint8]], Weight]] = {
    GGMLQuantizationType.Q4_0.name: _q4_0,
    GGMLQuantizationType.Q4_1.name: _q4_1,
    GGMLQuantizationType.Q8_0.name: _q8_0,
}
