"""Rounding float32 matrices to integer codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ranvier.models.weights import Array, FloatArray, Int4, Int8, pack_nibbles

INT4_GROUP = 32
"""Input columns that share a scale and a zero point: small enough to hold quality, the size GGUF blocks have."""

_FRACTIONS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 1.05)
"""Parts of a group's range that the int4 search spreads 16 steps over; a narrower grid clips outliers and serves the
rest. Each is only where the search begins: the scale is then fitted to the codes that it gave."""

_BLOCK_VALUES = 1 << 17
"""Values that are searched together: their scratch arrays stay in the processor's caches, whatever the matrix."""

_LEAST_IMPORTANCE = 1e-4
"""Of the mean in its group: a column that was never active when importance was measured still counts a little."""


def quantize_int8(values: FloatArray) -> Int8:
    """One symmetric scale for each row of `[out, in]`; rounds to nearest."""
    peak = np.abs(values).max(axis=1, keepdims=True).astype(np.float32)
    scales = _steps(peak, 127)
    return Int8(np.rint(values / scales).astype(np.int8), scales)


def quantize_int4(values: FloatArray, group_size: int = INT4_GROUP, importance: FloatArray | None = None) -> Int4:
    """Groups of `group_size` columns with a scale and a whole zero point each, searched for the least squared error.

    `values` is `[out, in]`, `in` a multiple of `group_size`. `importance` `[in]` weighs the squared errors of a
    column, best by the mean square of what it is multiplied with: then it is the error of the product that gets least.
    """
    rows, columns = values.shape
    groups = columns // group_size
    weights_GI = _weights(importance, groups, group_size)
    packed = np.empty((rows, columns // 2), np.uint8)
    scales, zeros = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.uint8)
    step = max(1, _BLOCK_VALUES // columns)
    for first in range(0, rows, step):
        part = slice(first, first + step)
        grouped_RGI = values[part].reshape(-1, groups, group_size)
        codes, scales[part], zeros[part] = _search(grouped_RGI, weights_GI)
        packed[part] = pack_nibbles(codes.reshape(-1, columns))
    return Int4(packed, scales, zeros)


def _weights(importance: FloatArray | None, groups: int, group_size: int) -> FloatArray:
    """Weights of squared errors `[groups, group_size]`, 1 in the mean of each group."""
    if importance is None:
        return np.ones((groups, group_size), np.float32)
    grouped = importance.astype(np.float32).reshape(groups, group_size)
    mean = grouped.mean(axis=1, keepdims=True)
    scaled: FloatArray = np.divide(grouped, mean, out=np.ones_like(grouped), where=mean > 0)
    np.maximum(scaled, np.float32(_LEAST_IMPORTANCE), out=scaled)
    return scaled


def _steps(spans: FloatArray, count: int) -> FloatArray:
    """The size of one of `count` steps; 1 where a step would be too small to be exact, so that codes come out as 0."""
    steps: FloatArray = spans / np.float32(count)
    return np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1))


def _search(grouped: FloatArray, weights: FloatArray) -> tuple[npt.NDArray[np.uint8], FloatArray, FloatArray]:
    """Codes `[R, G, I]`, scales and zero points `[R, G]` of the values `[R, G, I]`.

    With codes c about a zero point fixed, the best scale is s = sum(w c x) / sum(w c c), and it leaves a squared error
    of sum(w x x) - sum(w c x)^2 / sum(w c c). So the second term tells candidates apart, and it needs no second pass.
    """
    low, high = np.minimum(grouped.min(axis=-1), 0.0), np.maximum(grouped.max(axis=-1), 0.0)
    steps = _steps((high - low).astype(np.float32), 15)
    # In units of the plain step every group looks alike, and no square overflows.
    scaled = grouped / steps[..., None]
    origin = -low / steps
    best_gain = np.full(steps.shape, -1, np.float32)
    best_factor, best_zero = np.ones_like(steps), np.rint(origin).astype(np.float32)
    scratch: tuple[FloatArray, FloatArray] = np.empty_like(scaled), np.empty_like(scaled)
    for fraction in _FRACTIONS:
        below = np.floor(origin)
        for zero in (below, below + 1):
            zero = np.clip(zero, 0, 15)
            gain, factor = _fit(scaled, weights, np.float32(fraction), zero, scratch)
            better = gain > best_gain
            np.copyto(best_gain, gain, where=better)
            np.copyto(best_factor, factor, where=better)
            np.copyto(best_zero, zero, where=better)
    codes = _codes(scaled, best_factor, best_zero, scratch[0])
    codes += best_zero[..., None]
    return codes.astype(np.uint8), steps * best_factor, best_zero


def _fit(
    scaled: FloatArray, weights: FloatArray, factor: np.float32, zero: FloatArray, scratch: tuple[Array, Array]
) -> tuple[FloatArray, FloatArray]:
    """How much squared error the codes at this scale and zero point take away, and the scale that fits them best."""
    codes = _codes(scaled, factor, zero, scratch[0])
    weighted = np.multiply(codes, weights, out=scratch[1])
    squares = np.einsum("rgi,rgi->rg", weighted, codes)
    products = np.einsum("rgi,rgi->rg", weighted, scaled)
    fits = (squares > 0) & (products > 0)
    fitted = np.divide(products, squares, out=np.full_like(squares, factor), where=fits)
    return np.where(fits, products * fitted, np.float32(0)), fitted


def _codes(scaled: FloatArray, factor: FloatArray | np.float32, zero: FloatArray, out: FloatArray) -> FloatArray:
    """Codes less their zero point, -15 … 15."""
    factors = factor[..., None] if isinstance(factor, np.ndarray) else factor
    np.divide(scaled, factors, out=out)
    np.rint(out, out=out)
    np.maximum(out, -zero[..., None], out=out)
    np.minimum(out, 15 - zero[..., None], out=out)
    return out
