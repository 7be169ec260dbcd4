"""Scaled rotary embeddings against their formulas, written out case by case."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.models.rope import LinearScaling, LongScaling, RopeSpec, YarnScaling


def long_rope(magnitude: float = 1.5) -> RopeSpec:
    scaling = LongScaling(
        short_factors=(1.0, 2.0), long_factors=(4.0, 8.0), original_max_positions=100, magnitude=magnitude
    )
    return RopeSpec(theta=100.0, rotary_dim=4, scaling=scaling)


@pytest.mark.parametrize(("length", "frequencies"), [(1, [1, 0.05]), (100, [1, 0.05]), (101, [0.25, 0.0125])])
def test_long_rope_follows_the_longest_sequence_that_is_served(length: int, frequencies: list[float]) -> None:
    assert long_rope().inverse_frequencies(length).tolist() == pytest.approx(frequencies, rel=1e-14)


def test_only_long_rope_and_yarn_change_the_magnitude() -> None:
    assert long_rope(1.25).magnitude == 1.25
    assert RopeSpec(theta=100.0, rotary_dim=4).magnitude == 1.0
    assert RopeSpec(theta=100.0, rotary_dim=4, scaling=LinearScaling(factor=2.0)).magnitude == 1.0


def yarn_by_dimension(rope: RopeSpec, scaling: YarnScaling) -> list[float]:
    """As the paper has it: a ramp over dimensions between the borders found from turns over the original context."""

    def dimension(turns: float) -> float:
        context = scaling.original_max_positions / (turns * 2 * math.pi)
        return rope.rotary_dim * math.log(context) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.is_truncated:
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, rope.rotary_dim - 1.0)
    if low == high:
        high += 0.001
    scaled = []
    for pair in range(rope.rotary_dim // 2):
        frequency = rope.theta ** (-2 * pair / rope.rotary_dim)
        ramp = min(max((pair - low) / (high - low), 0.0), 1.0)
        scaled.append(frequency / scaling.factor * ramp + frequency * (1 - ramp))
    return scaled


@given(
    theta=st.floats(1e3, 1e7),
    width=st.sampled_from([4, 16, 64, 128]),
    factor=st.floats(1.0, 64.0),
    fast=st.floats(8.0, 64.0),
    slow=st.floats(0.5, 4.0),
    context=st.sampled_from([512, 4096, 32768]),
    is_truncated=st.booleans(),
)
def test_yarn_is_that_of_the_paper(
    theta: float, width: int, factor: float, fast: float, slow: float, context: int, is_truncated: bool
) -> None:
    scaling = YarnScaling(
        factor=factor,
        beta_fast=fast,
        beta_slow=slow,
        original_max_positions=context,
        is_truncated=is_truncated,
        magnitude=1.0,
    )
    rope = RopeSpec(theta=theta, rotary_dim=width, scaling=scaling)
    assert rope.inverse_frequencies(context).tolist() == pytest.approx(yarn_by_dimension(rope, scaling), rel=1e-9)


def test_yarn_keeps_fast_dimensions_and_divides_slow_ones() -> None:
    scaling = YarnScaling(
        factor=4.0, beta_fast=32.0, beta_slow=1.0, original_max_positions=32768, is_truncated=True, magnitude=1.14
    )
    plain = RopeSpec(theta=1e6, rotary_dim=128).inverse_frequencies(131072)
    scaled = RopeSpec(theta=1e6, rotary_dim=128, scaling=scaling).inverse_frequencies(131072)
    turns = 32768 * plain / (2 * math.pi)

    assert (scaled[turns > 40] == plain[turns > 40]).all()
    assert (scaled[turns < 0.8] == plain[turns < 0.8] / 4).all()
