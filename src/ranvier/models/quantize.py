"""Rounding float32 matrices to integer codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ranvier.models.weights import FloatArray, Int4, Int8, pack_nibbles

INT4_GROUP = 32
"""Input columns that share a scale and a zero point: small enough to hold quality, the size GGUF blocks have."""

_CANDIDATES = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)
"""Fractions of a group's range that the int4 search tries; a narrower grid clips outliers and serves the rest."""


def quantize_int8(values: FloatArray) -> Int8:
    """One symmetric scale for each row of `[out, in]`; rounds to nearest."""
    peak = np.abs(values).max(axis=1, keepdims=True).astype(np.float32)
    scales = _steps(peak, 127)
    return Int8(np.rint(values / scales).astype(np.int8), scales)


def quantize_int4(values: FloatArray, group_size: int = INT4_GROUP) -> Int4:
    """Groups of `group_size` columns with a scale and a whole zero point each, fitted by squared error.

    For each group several ranges are tried and the one with the least squared error is kept. `in` must be a multiple
    of `group_size`.
    """
    rows = values.shape[0]
    grouped = values.reshape(rows, -1, group_size)
    low = np.minimum(grouped.min(axis=-1), 0.0)
    high = np.maximum(grouped.max(axis=-1), 0.0)
    best = _fit(grouped, low, high)
    for fraction in _CANDIDATES[1:]:
        trial = _fit(grouped, low * fraction, high * fraction)
        better = trial[3] < best[3]
        best = tuple(
            np.where(better.reshape(better.shape + (1,) * (new.ndim - 2)), new, old)
            for new, old in zip(trial, best, strict=True)
        )
    codes, scales, zeros, _ = best
    packed = pack_nibbles(codes.astype(np.uint8).reshape(rows, -1))
    return Int4(packed, scales.astype(np.float32), zeros.astype(np.uint8))


def _steps(spans: FloatArray, count: int) -> FloatArray:
    """The size of one of `count` steps; 1 where a step would be too small to be exact, so that codes come out as 0."""
    steps: FloatArray = spans / np.float32(count)
    return np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1))


def _fit(grouped: FloatArray, low: npt.NDArray[np.floating], high: npt.NDArray[np.floating]) -> tuple[FloatArray, ...]:
    """Codes, scales, zeros and squared errors for the grid of 16 steps from `low` to `high`."""
    span = (high - low).astype(np.float32)
    scales = _steps(span, 15)
    zeros = np.clip(np.rint(-low / scales), 0, 15).astype(np.float32)
    codes = np.clip(np.rint(grouped / scales[..., None]) + zeros[..., None], 0, 15).astype(np.float32)
    error = (((codes - zeros[..., None]) * scales[..., None] - grouped) ** 2).sum(axis=-1)
    return codes, scales, zeros, error
