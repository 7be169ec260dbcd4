"""Weights as they are held: dense, or integer codes with scales. Row-major, `[out, in]` like the checkpoints.

    dense   values f32 | bf16 bits (u16)           [out, in] or [n]
    int8    codes i8 [out, in]                     value = code * scale
    int4    codes u8 [out, in / 2], low nibble first   value = (code - zero) * scale

Scales are f32 `[out, groups]`, `groups = in / group_size`; zeros (int4 only) are u8 whole numbers, or f32 where a
GGUF block needs a fraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dense:
    """Values as they are: `float32`, or `uint16` holding bfloat16 bits."""

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """`[out, in]`, or `[n]` for norms and biases."""
        return self.values.shape


@dataclass(frozen=True, slots=True)
class Int8:
    """Signed codes with one scale for each group of a row."""

    codes: npt.NDArray[np.int8]
    scales: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        """`[out, in]`."""
        return self.codes.shape


@dataclass(frozen=True, slots=True)
class Int4:
    """Unsigned 4-bit codes, two to a byte, with a scale and a zero point for each group of a row."""

    codes: npt.NDArray[np.uint8]
    scales: FloatArray
    zeros: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """`[out, in]`, counted in values."""
        return self.codes.shape[0], self.codes.shape[1] * 2


Weight = Dense | Int8 | Int4


def to_bfloat16_bits(values: FloatArray) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: npt.NDArray[np.uint16] = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded


def from_bfloat16_bits(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """The float32 values of bfloat16 bits, exactly."""
    widened: FloatArray = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened


def dequantize(weight: Weight) -> FloatArray:
    """The float32 values that a weight stands for."""
    if isinstance(weight, Dense):
        values = weight.values
        return from_bfloat16_bits(values) if values.dtype == np.uint16 else values.astype(np.float32)
    groups = weight.scales.shape[1]
    codes = weight.codes if isinstance(weight, Int8) else unpack_nibbles(weight.codes)
    grouped = codes.reshape(codes.shape[0], groups, -1).astype(np.float32)
    if isinstance(weight, Int4):
        grouped -= weight.zeros.astype(np.float32)[..., None]
    return (grouped * weight.scales[..., None]).reshape(codes.shape)


def pack_nibbles(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Two 4-bit codes to a byte along the last axis, the first in the low nibble."""
    packed: npt.NDArray[np.uint8] = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return packed


def unpack_nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The inverse of `pack_nibbles`."""
    nibbles: Array = np.stack([packed & 15, packed >> 4], axis=-1)
    codes: npt.NDArray[np.uint8] = nibbles.reshape(*packed.shape[:-1], -1)
    return codes


def in_memory(weight: Weight) -> Weight:
    """The same weight in memory of its own, apart from the file it was mapped from."""
    if isinstance(weight, Dense):
        return Dense(weight.values.copy())
    if isinstance(weight, Int8):
        return Int8(weight.codes.copy(), weight.scales.copy())
    return Int4(weight.codes.copy(), weight.scales.copy(), weight.zeros.copy())


def concat_rows(parts: list[Weight]) -> Weight | None:
    """The parts stacked by rows as one weight, or None when they are held in different forms."""
    if len({_form(part) for part in parts}) != 1:
        return None
    first = parts[0]
    if isinstance(first, Dense):
        return Dense(np.concatenate([part.values for part in parts if isinstance(part, Dense)]))
    if isinstance(first, Int8):
        eights = [part for part in parts if isinstance(part, Int8)]
        return Int8(np.concatenate([p.codes for p in eights]), np.concatenate([p.scales for p in eights]))
    fours = [part for part in parts if isinstance(part, Int4)]
    return Int4(
        np.concatenate([p.codes for p in fours]),
        np.concatenate([p.scales for p in fours]),
        np.concatenate([p.zeros for p in fours]),
    )


def _form(weight: Weight) -> tuple[object, ...]:
    if isinstance(weight, Dense):
        return ("dense", weight.values.dtype, weight.shape[1:])
    zeros = weight.zeros.dtype if isinstance(weight, Int4) else None
    return (type(weight), weight.shape[1], weight.scales.shape[1], zeros)
