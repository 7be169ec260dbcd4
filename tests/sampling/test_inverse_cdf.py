import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ranvier.sampling.candidates import inverse_cdf, largest

BELOW_1 = 1 - 2.0**-53
WEIGHTS = [float(np.float32(weight)) for weight in (0.0, 1e-30, 1e-7, 0.1, 0.7, 1.0)]


def test_the_chosen_weight_is_the_first_whose_running_sum_exceeds_u_times_the_total() -> None:
    weights = np.array([1.0, 0.0, 2.0, 1.0])
    indices = [inverse_cdf(weights, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, BELOW_1)]
    assert indices == [(0, 4.0), (0, 4.0), (2, 4.0), (2, 4.0), (3, 4.0), (3, 4.0)]


@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 1024, 5000])
def test_a_sweep_of_u_chooses_every_index_as_often_as_it_weighs(size: int) -> None:
    weights = np.random.default_rng(size).integers(0, 4, size).astype(np.float32)
    weights[size // 2] = 3
    total = int(weights.sum())
    drawn = [inverse_cdf(weights, (i + 0.5) / total)[0] for i in range(total)]
    assert np.array_equal(np.bincount(drawn, minlength=size), weights)
    assert drawn == sorted(drawn)


@settings(deadline=None)
@given(
    weights=hnp.arrays(np.float32, st.integers(1, 1100), elements=st.sampled_from(WEIGHTS)),
    u=st.one_of(st.floats(0, BELOW_1), st.sampled_from([0.0, 2.0**-53, 0.5, BELOW_1])),
)
def test_a_weight_of_zero_is_never_chosen_and_the_running_sums_enclose_u(
    weights: np.ndarray[tuple[int], np.dtype[np.float32]], u: float
) -> None:
    weights[len(weights) // 2] = 1.0
    index, total = inverse_cdf(weights, u)
    ends = np.cumsum(weights.astype(np.float64))
    assert weights[index] > 0
    assert total == pytest.approx(ends[-1], rel=1e-14)
    assert ends[index] - weights[index] <= u * total * (1 + 1e-12)
    assert ends[index] * (1 + 1e-12) >= u * total


def test_the_largest_u_chooses_the_last_positive_weight_however_the_sums_were_rounded() -> None:
    for seed in range(200):
        weights = np.random.default_rng(seed).uniform(0.1, 1.0, 512)
        weights[400:] = 0.0
        assert inverse_cdf(weights, BELOW_1)[0] == 399


@settings(deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.sampled_from([1, 2, 50, 4095, 4096, 4097, 9001]),
        elements=st.one_of(st.integers(-3, 3), st.just(-np.inf), st.floats(-9, 9, width=32)),
    ),
    count=st.one_of(st.integers(1, 60), st.integers(1, 10_000)),
)
def test_the_largest_values_are_found_with_all_that_equal_the_last(
    values: np.ndarray[tuple[int], np.dtype[np.float32]], count: int
) -> None:
    last = np.sort(values)[-min(count, len(values))]
    assert np.array_equal(largest(values, count), np.flatnonzero(values >= last))


@pytest.mark.parametrize("count", [1, 50, 1000, 3000, 49_999, 50_000])
def test_the_largest_values_are_found_wherever_they_stand_in_a_long_row(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(50_000).astype(np.float32)
    for row in (values, np.sort(values), np.sort(values)[::-1], np.zeros_like(values)):
        assert np.array_equal(largest(row, count), np.flatnonzero(row >= np.sort(row)[-count]))
