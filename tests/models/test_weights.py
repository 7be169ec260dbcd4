"""Weights as they are held: bfloat16 rounding, nibbles, codes with scales.

The reference for bfloat16 works in float64, where every float32 and every product below is exact: a value between
`2**e` and `2**(e + 1)` is rounded to a multiple of `2**(e - 7)`, and e is at least -126.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ranvier.models.weights import (
    Dense,
    Int4,
    Int8,
    Weight,
    concat_rows,
    dequantize,
    from_bfloat16_bits,
    pack_nibbles,
    to_bfloat16_bits,
    unpack_nibbles,
)

EVERY_BFLOAT16 = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def reference(value: float) -> float:
    """The nearest bfloat16 value, ties to even, in float64 arithmetic."""
    if math.isnan(value) or math.isinf(value) or value == 0:
        return value
    exponent = max(math.frexp(value)[1] - 1, -126)
    step = 2.0 ** (exponent - 7)
    rounded = round(value / step) * step
    return math.copysign(math.inf, value) if abs(rounded) >= 2.0**128 else rounded


def rounded(values: npt.ArrayLike) -> list[float]:
    array = np.asarray(values, np.float32)
    return [float(value) for value in from_bfloat16_bits(to_bfloat16_bits(array))]


@given(value=st.floats(width=32, allow_nan=False, allow_subnormal=True))
def test_bfloat16_rounds_to_nearest(value: float) -> None:
    (given_back,) = rounded([value])
    assert given_back == reference(value)
    assert math.copysign(1, given_back) == math.copysign(1, value)


@given(bits=st.integers(0, 0x7F7F), low=st.integers(0, 0xFFFF), negative=st.booleans())
def test_any_lower_half_rounds_to_nearest(bits: int, low: int, negative: bool) -> None:
    value = np.uint32(bits << 16 | low | negative << 31).view(np.float32)
    assert rounded([value]) == [reference(float(value))]


def test_every_bfloat16_value_stays_itself() -> None:
    back = to_bfloat16_bits(from_bfloat16_bits(EVERY_BFLOAT16))
    is_nan = np.isnan(from_bfloat16_bits(EVERY_BFLOAT16))

    assert is_nan.sum() == 2 * 127
    assert np.array_equal(back[~is_nan], EVERY_BFLOAT16[~is_nan])
    assert np.isnan(from_bfloat16_bits(back[is_nan])).all()


def test_every_tie_goes_to_the_even_neighbour() -> None:
    finite = EVERY_BFLOAT16[(EVERY_BFLOAT16 & 0x7F80) != 0x7F80]
    ties = ((finite.astype(np.uint32) << 16) | 0x8000).view(np.float32)

    # The neighbour away from zero is one bit pattern higher; past the largest value that is infinity.
    assert np.array_equal(to_bfloat16_bits(ties), finite + (finite & 1))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (3.3895314e38, 3.3895314e38),  # 0x7F7F0000, the largest bfloat16
        (3.4028235e38, math.inf),  # the largest float32
        (1e-45, 0.0),  # the smallest float32, far below half of the smallest bfloat16
        (2.0**-133, 2.0**-133),  # the smallest bfloat16
        (2.0**-134, 0.0),  # its half: a tie, zero is even
        (3 * 2.0**-134, 2.0**-132),  # one and a half: a tie, two is even
        (1.00390625, 1.0),  # 1 + 2**-8: a tie
        (1.01171875, 1.015625),  # 1 + 3 * 2**-8: a tie
    ],
)
def test_bfloat16_at_the_edges(value: float, wanted: float) -> None:
    assert rounded([value]) == [pytest.approx(wanted, rel=1e-7, abs=0)]


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000])
def test_nan_stays_nan_even_where_its_bits_lie_in_the_lower_half(bits: int) -> None:
    assert math.isnan(rounded(np.array([bits], np.uint32).view(np.float32))[0])


def test_bfloat16_keeps_shape_and_takes_any_memory_order() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)

    assert np.array_equal(from_bfloat16_bits(to_bfloat16_bits(values.T)), values.T)
    assert np.array_equal(from_bfloat16_bits(to_bfloat16_bits(values[:, ::2])), values[:, ::2])


def test_the_first_code_is_in_the_low_nibble() -> None:
    assert pack_nibbles(np.array([1, 2, 15, 0], np.uint8)).tolist() == [0x21, 0x0F]
    assert unpack_nibbles(np.array([[0x21], [0x0F]], np.uint8)).tolist() == [[1, 2], [15, 0]]


@given(
    codes=npst.array_shapes(min_dims=1, max_dims=3, max_side=6).flatmap(
        lambda shape: npst.arrays(np.uint8, (*shape[:-1], 2 * shape[-1]), elements=st.integers(0, 15))
    )
)
def test_nibbles_are_unpacked_as_they_were_packed(codes: npt.NDArray[np.uint8]) -> None:
    packed = pack_nibbles(codes)

    assert packed.shape == (*codes.shape[:-1], codes.shape[-1] // 2)
    assert np.array_equal(unpack_nibbles(packed), codes)


def int8(codes: list[list[int]], scales: list[list[float]]) -> Int8:
    return Int8(np.array(codes, np.int8), np.array(scales, np.float32))


def int4(codes: list[list[int]], scales: list[list[float]], zeros: npt.NDArray[np.generic]) -> Int4:
    return Int4(pack_nibbles(np.array(codes, np.uint8)), np.array(scales, np.float32), zeros)


def test_dequantized_int8_is_code_times_the_scale_of_its_group() -> None:
    weight = int8([[1, -2, 127, -128], [0, 1, 2, 3]], [[0.5, 2.0], [1.0, 10.0]])

    assert dequantize(weight).tolist() == [[0.5, -1, 254, -256], [0, 1, 20, 30]]
    assert weight.shape == (2, 4)


def test_dequantized_int4_subtracts_the_zero_point_of_its_group() -> None:
    weight = int4([[0, 15, 8, 9]], [[0.5, 2.0]], np.array([[8, 7]], np.uint8))

    assert dequantize(weight).tolist() == [[-4, 3.5, 2, 4]]
    assert weight.shape == (1, 4)


def test_a_zero_point_may_be_a_fraction() -> None:
    weight = int4([[0, 15]], [[2.0]], np.array([[0.25]], np.float32))

    assert dequantize(weight).tolist() == [[-0.5, 29.5]]


def test_dense_weights_are_widened() -> None:
    assert dequantize(Dense(np.array([0x3F80, 0xC000], np.uint16))).tolist() == [1, -2]
    assert dequantize(Dense(np.array([[1.5]], np.float32))).tolist() == [[1.5]]
    assert dequantize(Dense(np.array([0x3F80], np.uint16))).dtype == np.float32


BYTE_ZEROS, FLOAT_ZEROS = np.array([[8]], np.uint8), np.array([[8.5]], np.float32)
FORMS: dict[str, Weight] = {
    "float32": Dense(np.ones((1, 4), np.float32)),
    "bfloat16": Dense(np.full((1, 4), 0x4000, np.uint16)),
    "int8 by row": int8([[1, 2, 3, 4]], [[3.0]]),
    "int8 in groups": int8([[1, 2, 3, 4]], [[3.0, 4.0]]),
    "int4": int4([[1, 2, 3, 4]], [[3.0]], BYTE_ZEROS),
    "int4 with fractions": int4([[1, 2, 3, 4]], [[3.0]], FLOAT_ZEROS),
}


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_one_form_are_stacked_by_rows(form: str) -> None:
    part = FORMS[form]
    whole = concat_rows([part, part, part])

    assert whole is not None
    assert type(whole) is type(part)
    assert whole.shape == (3, 4)
    assert np.array_equal(dequantize(whole), np.concatenate([dequantize(part)] * 3))


@pytest.mark.parametrize("one", FORMS)
@pytest.mark.parametrize("other", FORMS)
def test_parts_of_different_forms_are_not_stacked(one: str, other: str) -> None:
    assert (concat_rows([FORMS[one], FORMS[other]]) is None) == (one != other)


def test_parts_of_different_width_are_not_stacked() -> None:
    narrow = Dense(np.ones((1, 2), np.float32))
    assert concat_rows([FORMS["float32"], narrow]) is None


def test_biases_are_joined() -> None:
    whole = concat_rows([Dense(np.ones(2, np.float32)), Dense(np.zeros(1, np.float32))])

    assert whole is not None
    assert dequantize(whole).tolist() == [1, 1, 0]
