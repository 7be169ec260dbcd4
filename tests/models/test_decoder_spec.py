"""`DecoderSpec` in numbers: parameters, KV bytes, rotary frequencies."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.models import DecoderSpec, spec_of
from ranvier.models.rope import FactorScaling, LinearScaling, Llama3Scaling, RopeSpec
from ranvier.models.spec import AttentionSpec, LayerSpec, MlpSpec, NormSpec
from tiny_checkpoints import TinyModel, llama3_factors

SMALL = DecoderSpec(
    vocab_size=10,
    hidden_size=4,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    max_positions=16,
    block="pre",
    norm=NormSpec(kind="rms", eps=1e-5),
    attention=AttentionSpec(scale=2**-0.5),
    layers=(LayerSpec(rope=RopeSpec(theta=10000.0, rotary_dim=2)),),
    mlp=MlpSpec(intermediate_size=6),
    has_tied_head=True,
)


def test_parameters_can_be_counted_by_hand() -> None:
    """Table 40; a layer q 16 + k 8 + v 8 + o 16 + MLP 72 + two norms 8 = 128; final norm 4."""
    assert SMALL.num_parameters == 40 + 2 * 128 + 4


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"has_tied_head": False}, 40),
        ({"attention": AttentionSpec(scale=1.0, has_qkv_bias=True)}, 2 * (4 + 2 + 2)),
        ({"attention": AttentionSpec(scale=1.0, has_out_bias=True)}, 2 * 4),
        ({"attention": AttentionSpec(scale=1.0, qk_norm="head")}, 2 * (2 + 2)),
        ({"attention": AttentionSpec(scale=1.0, qk_norm="width")}, 2 * (4 + 2)),
        ({"mlp": MlpSpec(intermediate_size=6, has_bias=True)}, 2 * (6 + 6 + 4)),
        ({"mlp": MlpSpec(intermediate_size=6, is_gated=False)}, -2 * 24),
        ({"norm": NormSpec(kind="layer", eps=1e-5)}, 2 * 8 + 4),
        ({"block": "sandwich"}, 2 * 8),
        ({"block": "post"}, 0),
        ({"block": "parallel"}, 0),
        ({"block": "parallel_shared"}, -2 * 4),
        ({"has_learned_positions": True}, 16 * 4),
    ],
)
def test_each_part_adds_its_parameters(change: dict[str, Any], more: int) -> None:
    assert dataclasses.replace(SMALL, **change).num_parameters - SMALL.num_parameters == more


@given(
    is_tied=st.booleans(),
    attention=st.booleans(),
    mlp=st.booleans(),
    layers=st.integers(1, 3),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (3, 3)]),
)
def test_as_many_parameters_as_the_checkpoint_has_values(
    is_tied: bool, attention: bool, mlp: bool, layers: int, heads: tuple[int, int]
) -> None:
    model = TinyModel(
        is_tied=is_tied,
        has_attention_bias=attention,
        has_mlp_bias=mlp,
        num_layers=layers,
        num_heads=heads[0],
        num_kv_heads=heads[1],
    )
    assert spec_of(model.config()).num_parameters == sum(math.prod(shape) for shape in model.shapes().values())


@pytest.mark.parametrize(("bytes_per_value", "wanted"), [(4, 32), (2, 16), (1.125, 9)])
def test_kv_bytes_of_a_token_are_keys_and_values_of_all_layers(bytes_per_value: float, wanted: int) -> None:
    assert SMALL.kv_bytes_per_token(bytes_per_value) == wanted


def test_plain_frequencies_are_powers_of_theta() -> None:
    assert RopeSpec(theta=10000.0, rotary_dim=8).inverse_frequencies(16).tolist() == pytest.approx(
        [1, 0.1, 0.01, 0.001], rel=1e-14
    )


def test_linear_scaling_divides_positions() -> None:
    scaled = RopeSpec(theta=10000.0, rotary_dim=8, scaling=LinearScaling(factor=4.0)).inverse_frequencies(16)
    assert scaled.tolist() == pytest.approx([0.25, 0.025, 0.0025, 0.00025], rel=1e-14)


def test_factors_divide_one_frequency_each() -> None:
    scaled = RopeSpec(
        theta=10000.0, rotary_dim=8, scaling=FactorScaling(factors=(1.0, 2.0, 4.0, 8.0))
    ).inverse_frequencies(16)
    assert scaled.tolist() == pytest.approx([1, 0.05, 0.0025, 0.000125], rel=1e-14)


def llama3_by_wavelength(theta: float, width: int, factor: float, low: float, high: float, context: int) -> list[float]:
    """As Meta's reference code has it (`apply_scaling` in llama-models): branches over the wavelength."""
    scaled = []
    for pair in range(width // 2):
        frequency = theta ** (-2 * pair / width)
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            scaled.append(frequency)
        elif wavelength > context / low:
            scaled.append(frequency / factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            scaled.append((1 - smooth) * frequency / factor + smooth * frequency)
    return scaled


@given(
    theta=st.floats(1e3, 1e7),
    width=st.sampled_from([2, 8, 64, 128]),
    factor=st.floats(1.0, 64.0),
    low=st.floats(0.5, 2.0),
    high=st.floats(2.5, 32.0),
    context=st.sampled_from([64, 4096, 8192]),
)
def test_llama3_scaling_is_that_of_the_reference_code(
    theta: float, width: int, factor: float, low: float, high: float, context: int
) -> None:
    scaling = Llama3Scaling(factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_positions=context)
    ours = RopeSpec(theta=theta, rotary_dim=width, scaling=scaling).inverse_frequencies(context)

    assert ours.dtype == np.float64
    assert ours.tolist() == pytest.approx(llama3_by_wavelength(theta, width, factor, low, high, context), rel=1e-9)


def test_llama_3_1_keeps_high_frequencies_and_divides_low_ones() -> None:
    scaling = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
    plain = RopeSpec(theta=500000.0, rotary_dim=128).inverse_frequencies(16384)
    scaled = RopeSpec(theta=500000.0, rotary_dim=128, scaling=scaling).inverse_frequencies(16384)
    wavelengths = 2 * np.pi / plain

    assert np.array_equal(scaled[wavelengths < 2048], plain[wavelengths < 2048])
    assert np.array_equal(scaled[wavelengths > 8192], plain[wavelengths > 8192] / 8)
    assert ((wavelengths >= 2048) & (wavelengths <= 8192)).sum() > 3
    assert np.all(np.diff(scaled) < 0)


def test_a_gguf_file_s_factors_give_the_same_frequencies_as_the_config() -> None:
    model = TinyModel(rope="llama3", head_dim=64)
    factors = FactorScaling(factors=tuple(float(value) for value in llama3_factors(model)))
    by_factors = RopeSpec(theta=model.rope_theta, rotary_dim=64, scaling=factors).inverse_frequencies(256)
    rope = spec_of(model.config()).layers[0].rope

    assert rope is not None
    assert by_factors == pytest.approx(rope.inverse_frequencies(256), rel=1e-6)
