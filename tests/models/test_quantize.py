"""Rounding to integer codes: error bounds that follow from the step, and rows that are special.

int8: a row's step is its peak / 127, so no value moves by more than half a step. int4: with the plain range of a group
the step is (high - low) / 15 with zero in range, and again no value moves by more than half a step; the search may move
single values further but never makes a group's squared error larger.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ranvier.models.quantize import INT4_GROUP, quantize_int4, quantize_int8
from ranvier.models.weights import dequantize, unpack_nibbles

FloatArray = npt.NDArray[np.float32]
NEGLIGIBLE = 16 * float(np.finfo(np.float32).tiny)
"""Below this many multiples of the smallest normal float32 a step is not representable to full precision."""


def matrices(columns: int, largest: float) -> st.SearchStrategy[FloatArray]:
    elements = st.floats(-largest, largest, width=32, allow_subnormal=True)
    return st.integers(1, 3).flatmap(
        lambda rows: npst.arrays(np.float32, (rows, columns), elements=elements, fill=st.just(0.0))
    )


def plain_min_max(group: FloatArray) -> npt.NDArray[np.float64]:
    """The values after rounding to 16 steps over the group's range, zero included, in float64."""
    low, high = min(float(group.min()), 0.0), max(float(group.max()), 0.0)
    step = (high - low) / 15 or 1.0
    zero = np.clip(np.rint(-low / step), 0, 15)
    codes = np.clip(np.rint(group.astype(np.float64) / step) + zero, 0, 15)
    return np.asarray((codes - zero) * step, np.float64)


@settings(deadline=None)
@given(values=matrices(7, 2.0**100))
def test_int8_moves_no_value_by_more_than_half_a_step(values: FloatArray) -> None:
    weight = quantize_int8(values)
    peak = np.abs(values.astype(np.float64)).max(axis=1, keepdims=True)
    error = np.abs(dequantize(weight).astype(np.float64) - values)

    assert (weight.codes.dtype.name, weight.scales.dtype.name) == ("int8", "float32")
    assert weight.scales.shape == (len(values), 1)
    assert np.all(error <= np.maximum(peak / 127 * 0.50001, 127 * NEGLIGIBLE))
    assert weight.codes.min() >= -127


@settings(deadline=None)
@given(values=matrices(7, 2.0**100))
def test_int8_keeps_the_peak_of_a_row(values: FloatArray) -> None:
    codes = np.abs(quantize_int8(values).codes.astype(np.int32)).max(axis=1)
    is_large = np.abs(values).max(axis=1) > 127 * NEGLIGIBLE

    assert np.all(codes[is_large] == 127)


def test_int8_of_a_whole_number_row_is_exact() -> None:
    values = np.array([[-127, -1, 0, 5, 127]], np.float32)
    weight = quantize_int8(values)

    assert weight.scales.tolist() == [[1.0]]
    assert weight.codes.tolist() == [[-127, -1, 0, 5, 127]]


@pytest.mark.parametrize("peak", [1e-45, 1.9e-43, 1e-40, 1.1754944e-38, 1e-36, 3e38])
def test_int8_of_the_smallest_and_largest_rows_stays_in_range(peak: float) -> None:
    values = np.array([[peak, -peak, 0.0]], np.float32)
    back = dequantize(quantize_int8(values))

    assert np.isfinite(back).all()
    assert np.abs(back - values).max() <= max(peak / 127, 127 * NEGLIGIBLE)
    assert back[0, 0] >= 0 >= back[0, 1]


@settings(deadline=None)
@given(values=matrices(2 * INT4_GROUP, 2.0**40))
def test_int4_is_never_worse_than_plain_min_max(values: FloatArray) -> None:
    back = dequantize(quantize_int4(values)).astype(np.float64)
    for row, row_back in zip(values, back, strict=True):
        for start in range(0, len(row), INT4_GROUP):
            group = row[start : start + INT4_GROUP]
            ours = np.sum((row_back[start : start + INT4_GROUP] - group) ** 2)
            plain = np.sum((plain_min_max(group) - group) ** 2)
            # The search compares float32 sums; values far below the group's range are lost to both.
            assert ours <= plain * 1.001 + 32 * (1e-6 * float(np.ptp(group))) ** 2 + 32 * (15 * NEGLIGIBLE) ** 2


@settings(deadline=None)
@given(values=matrices(INT4_GROUP, 2.0**40))
def test_int4_stays_within_half_a_step_in_the_mean(values: FloatArray) -> None:
    weight = quantize_int4(values)
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    step = (high.astype(np.float64) - low) / 15
    mean = np.sqrt(np.mean((dequantize(weight).astype(np.float64) - values) ** 2, axis=1))

    assert np.all(mean <= np.maximum(step * 0.50001, 15 * NEGLIGIBLE))


def test_the_search_finds_better_ranges_than_min_max_for_ordinary_weights() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((64, INT4_GROUP)).astype(np.float32)
    error = np.sum((dequantize(quantize_int4(values)) - values) ** 2, axis=1)
    plain = np.array([np.sum((plain_min_max(row) - row) ** 2) for row in values])

    assert np.all(error <= plain * 1.0001)
    assert error.sum() < 0.97 * plain.sum()


def weighted_error(values: FloatArray, importance: FloatArray, back: FloatArray) -> float:
    return float(np.sum((back.astype(np.float64) - values) ** 2 * importance))


def test_importance_moves_the_error_to_the_columns_that_matter_least() -> None:
    random = np.random.default_rng(2)
    values = random.standard_normal((64, 4 * INT4_GROUP)).astype(np.float32)
    importance = random.lognormal(0, 2, values.shape[1]).astype(np.float32)
    plain, weighted = dequantize(quantize_int4(values)), dequantize(quantize_int4(values, importance=importance))

    assert weighted_error(values, importance, weighted) < 0.7 * weighted_error(values, importance, plain)
    assert np.sum((weighted - values) ** 2) > np.sum((plain - values) ** 2)


def test_a_column_that_carries_nearly_all_energy_is_nearly_exact() -> None:
    values = np.random.default_rng(3).standard_normal((16, INT4_GROUP)).astype(np.float32)
    importance = np.full(INT4_GROUP, 1e-3, np.float32)
    importance[7] = 1e3
    weighted, plain = (dequantize(quantize_int4(values, importance=each)) for each in (importance, None))

    assert np.abs(weighted - values)[:, 7].mean() < 0.2 * np.abs(plain - values)[:, 7].mean()


@pytest.mark.parametrize("value", [1.0, 1e-30, 1e30, 0.0])
def test_equal_importance_is_none(value: float) -> None:
    values = np.random.default_rng(4).standard_normal((4, 2 * INT4_GROUP)).astype(np.float32)
    importance = np.full(values.shape[1], value, np.float32)

    assert np.array_equal(dequantize(quantize_int4(values, importance=importance)), dequantize(quantize_int4(values)))


def test_columns_that_were_never_active_are_rounded_as_well_as_they_can_be() -> None:
    values = np.random.default_rng(5).standard_normal((8, INT4_GROUP)).astype(np.float32)
    importance = np.zeros(INT4_GROUP, np.float32)
    importance[:16] = 1
    back = dequantize(quantize_int4(values, importance=importance))

    assert np.abs(back - values)[:, 16:].max() < np.abs(values).max()


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 5000])
def test_a_matrix_is_rounded_row_by_row_however_many_there_are(rows: int) -> None:
    values = np.random.default_rng(6).standard_normal((rows, 4 * INT4_GROUP)).astype(np.float32)
    whole, last = quantize_int4(values), quantize_int4(values[-1:])

    assert np.array_equal(whole.codes[-1:], last.codes)
    assert np.array_equal(whole.scales[-1:], last.scales)
    assert np.array_equal(whole.zeros[-1:], last.zeros)


def test_scratch_memory_does_not_grow_with_the_matrix() -> None:
    values = np.random.default_rng(7).standard_normal((4096, 1024)).astype(np.float32)
    tracemalloc.start()
    try:
        weight = quantize_int4(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = weight.codes.nbytes + weight.scales.nbytes + weight.zeros.nbytes
    assert peak < held + 8_000_000


def test_int4_has_codes_and_zero_points_of_four_bits() -> None:
    values = np.random.default_rng(1).standard_normal((8, 3 * INT4_GROUP)).astype(np.float32)
    weight = quantize_int4(values)

    assert (weight.codes.dtype.name, weight.codes.shape) == ("uint8", (8, 3 * INT4_GROUP // 2))
    assert (weight.scales.dtype.name, weight.scales.shape) == ("float32", (8, 3))
    assert (weight.zeros.dtype.name, weight.zeros.shape) == ("uint8", (8, 3))
    assert weight.zeros.max() <= 15
    assert unpack_nibbles(weight.codes).max() <= 15


def test_int4_groups_may_have_another_size() -> None:
    values = np.arange(16, dtype=np.float32).reshape(1, 16)
    weight = quantize_int4(values, group_size=16)

    assert weight.scales.shape == (1, 1)
    assert dequantize(weight).tolist() == values.tolist()


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4])
def test_rows_of_zeros_stay_zeros(quantize: type) -> None:
    values = np.zeros((2, INT4_GROUP), np.float32)
    values[1, 3] = 7.0
    back = dequantize(quantize(values))

    assert back[0].tolist() == [0.0] * INT4_GROUP
    assert back[1, 3] == pytest.approx(7.0, rel=1e-6)
    assert np.count_nonzero(back) == 1


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int4])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.3, -1e-20, 65504.0])
def test_constant_rows_are_kept(quantize: type, value: float) -> None:
    back = dequantize(quantize(np.full((2, INT4_GROUP), value, np.float32)))
    assert back == pytest.approx(np.full((2, INT4_GROUP), value), rel=1e-6, abs=0)


@pytest.mark.parametrize("span", [1e-45, 2e-44, 1e-40, 1e-37])
def test_int4_of_the_smallest_groups_stays_in_range(span: float) -> None:
    values = np.zeros((1, INT4_GROUP), np.float32)
    values[0, :3] = span, -span, span / 2
    back = dequantize(quantize_int4(values))

    assert np.isfinite(back).all()
    assert np.abs(back - values).max() <= max(span / 7, 15 * NEGLIGIBLE)
