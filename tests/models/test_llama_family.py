"""From a `config.json` of model type `llama` to the spec: published models, spellings of one thing, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from ranvier.errors import ModelError
from ranvier.models import DecoderSpec, spec_of
from ranvier.models.families import family_of
from ranvier.models.rope import FactorScaling, LinearScaling, Llama3Scaling, RopeSpec
from ranvier.models.sources import Source
from tiny_checkpoints import TinyModel


def rope_of(spec: DecoderSpec) -> RopeSpec:
    (layer,) = spec.layers
    assert layer.rope is not None
    return layer.rope


def has_attention_biases(spec: DecoderSpec) -> bool:
    assert spec.attention.has_qkv_bias == spec.attention.has_out_bias
    return spec.attention.has_qkv_bias


LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
TINYLLAMA_1_1B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
LLAMA_3_2_1B: dict[str, Any] = {
    "model_type": "llama",
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "rope_type": "llama3", **LLAMA3_ROPE},
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
LLAMA_3_1_8B: dict[str, Any] = LLAMA_3_2_1B | {
    "head_dim": None,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3", **LLAMA3_ROPE},
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "parameters", "kv_bytes", "head_dim"),
    [
        (SMOLLM2_135M, 134_515_008, 2 * 30 * 3 * 64 * 2, 64),
        (TINYLLAMA_1_1B, 1_100_048_384, 2 * 22 * 4 * 64 * 2, 64),
        (LLAMA_3_2_1B, 1_235_814_400, 2 * 16 * 8 * 64 * 2, 64),
        (LLAMA_3_1_8B, 8_030_261_248, 131_072, 128),
    ],
    ids=["SmolLM2-135M", "TinyLlama-1.1B", "Llama-3.2-1B", "Llama-3.1-8B"],
)
def test_published_models_have_their_published_sizes(
    config: dict[str, Any], parameters: int, kv_bytes: int, head_dim: int
) -> None:
    spec = spec_of(config)

    assert spec.num_parameters == parameters
    assert spec.kv_bytes_per_token(2) == kv_bytes
    assert spec.head_dim == head_dim
    assert spec.max_positions == config["max_position_embeddings"]


def test_every_field_reaches_the_spec() -> None:
    spec = spec_of(LLAMA_3_1_8B | {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 3e-6, "head_dim": 96})

    assert (spec.vocab_size, spec.hidden_size, spec.mlp.intermediate_size, spec.num_layers) == (128256, 4096, 14336, 32)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.norm.eps) == (32, 8, 96, 3e-6)
    assert (spec.has_tied_head, has_attention_biases(spec), spec.mlp.has_bias) == (False, True, True)
    assert rope_of(spec).theta == 500000.0
    assert rope_of(spec).scaling == Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )


def test_what_is_left_out_takes_the_defaults_of_the_family() -> None:
    needed = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    spec = spec_of({name: TINYLLAMA_1_1B[name] for name in (*needed, "num_attention_heads")})

    assert (spec.num_kv_heads, spec.head_dim, spec.norm.eps, spec.max_positions) == (32, 64, 1e-6, 2048)
    assert (spec.has_tied_head, has_attention_biases(spec), spec.mlp.has_bias) == (False, False, False)
    assert (rope_of(spec).theta, rope_of(spec).scaling) == (10000.0, None)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
        {
            "rope_theta": 1.0,
            "rope_scaling": None,
            "rope_parameters": {"rope_theta": 5e5, "type": "linear", "factor": 2},
        },
    ],
)
def test_scaling_is_read_in_every_spelling(spelling: dict[str, Any]) -> None:
    rope = rope_of(spec_of(TINYLLAMA_1_1B | spelling))

    assert rope.theta == 5e5
    assert rope.scaling == LinearScaling(factor=2.0)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_scaling": {}},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    ],
)
def test_no_scaling_is_read_in_every_spelling(spelling: dict[str, Any]) -> None:
    assert rope_of(spec_of(TINYLLAMA_1_1B | spelling)).scaling is None


def test_factors_of_a_gguf_file_are_one_for_each_frequency() -> None:
    factors = [1.0 + n for n in range(32)]
    spec = spec_of(TINYLLAMA_1_1B | {"rope_scaling": {"rope_type": "factors", "factors": factors}})
    assert rope_of(spec).scaling == FactorScaling(factors=tuple(factors))


def llama3(**changes: object) -> dict[str, Any]:
    return {"rope_scaling": {"factor": 8.0, "rope_type": "llama3", **LLAMA3_ROPE} | changes}


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_act": "gelu"}, "config.json: `hidden_act` is 'gelu', which is not supported; use silu"),
    ({"hidden_act": 1}, "config.json: `hidden_act` must be a string. Given: 1"),
    ({"vocab_size": None}, "config.json: `vocab_size` is missing"),
    ({"hidden_size": None}, "config.json: `hidden_size` is missing"),
    ({"intermediate_size": None}, "config.json: `intermediate_size` is missing"),
    ({"num_hidden_layers": None}, "config.json: `num_hidden_layers` is missing"),
    ({"num_attention_heads": None}, "config.json: `num_attention_heads` is missing"),
    ({"num_attention_heads": 0}, "config.json: `num_attention_heads` must be a whole number above 0. Given: 0"),
    ({"hidden_size": 4096.0}, "config.json: `hidden_size` must be a whole number above 0. Given: 4096.0"),
    ({"num_key_value_heads": "4"}, "config.json: `num_key_value_heads` must be a whole number above 0. Given: '4'"),
    (
        {"num_key_value_heads": 5},
        "config.json: `num_key_value_heads` is 5, which is not supported; use a divisor of `num_attention_heads`, 32",
    ),
    ({"head_dim": 63}, "config.json: `head_dim` is 63, which is not supported; use an even number"),
    ({"hidden_size": 31}, "config.json: `head_dim` must be a whole number above 0. Given: 0"),
    ({"rms_norm_eps": 0}, "config.json: `rms_norm_eps` must be a number above 0. Given: 0"),
    (
        {"max_position_embeddings": True},
        "config.json: `max_position_embeddings` must be a whole number above 0. Given: True",
    ),
    ({"rope_theta": "1e4"}, "config.json: `rope_theta` must be a number above 0. Given: '1e4'"),
    ({"tie_word_embeddings": "yes"}, "config.json: `tie_word_embeddings` must be true or false. Given: 'yes'"),
    ({"attention_bias": 1}, "config.json: `attention_bias` must be true or false. Given: 1"),
    ({"mlp_bias": 0}, "config.json: `mlp_bias` must be true or false. Given: 0"),
    ({"rope_scaling": "linear"}, "config.json: `rope_scaling` must be an object. Given: 'linear'"),
    ({"rope_parameters": [1]}, "config.json: `rope_parameters` must be an object. Given: [1]"),
    (
        {"rope_parameters": {"rope_theta": -1}},
        "config.json: `rope_parameters.rope_theta` must be a number above 0. Given: -1",
    ),
    *(
        (
            {"rope_scaling": {"rope_type": kind, "factor": 2.0}},
            f"config.json: `rope_scaling.rope_type` is {kind!r}, which is not supported; "
            f"use default, linear, llama3, yarn, longrope{reason}",
        )
        for kind, reason in (("dynamic", " (it changes with each request's length)"), ("ntk", ""))
    ),
    ({"rope_scaling": {"type": "linear"}}, "config.json: `rope_scaling.factor` is missing"),
    ({"rope_scaling": {"rope_type": 3}}, "config.json: `rope_scaling.rope_type` must be a string. Given: 3"),
    (llama3(factor=None), "config.json: `rope_scaling.factor` is missing"),
    (llama3(factor=0), "config.json: `rope_scaling.factor` must be a number above 0. Given: 0"),
    (llama3(low_freq_factor=None), "config.json: `rope_scaling.low_freq_factor` is missing"),
    (llama3(high_freq_factor=None), "config.json: `rope_scaling.high_freq_factor` is missing"),
    (
        llama3(high_freq_factor=1),
        "config.json: `rope_scaling.high_freq_factor` is 1.0, which is not supported; "
        "use a number above `low_freq_factor`, 1.0",
    ),
    (
        llama3(original_max_position_embeddings=None),
        "config.json: `rope_scaling.original_max_position_embeddings` is missing",
    ),
    (
        {"rope_scaling": {"rope_type": "factors", "factors": [1.0, 2.0]}},
        "config.json: `rope_scaling.factors` must be a list of 32 numbers above 0. Given: [1.0, 2.0]",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS, ids=[message[13:60] for _, message in REFUSALS])
def test_a_config_that_cannot_be_served_is_refused_with_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        spec_of(TINYLLAMA_1_1B | change)
    assert str(caught.value) == message


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("mlp", [True, False])
def test_weight_names_are_those_of_the_checkpoint(is_tied: bool, attention: bool, mlp: bool) -> None:
    model = TinyModel(is_tied=is_tied, has_attention_bias=attention, has_mlp_bias=mlp)
    names = family_of(model.config()).weight_names(spec_of(model.config()))

    assert sorted(source.name for source in names.values()) == sorted(model.shapes())
    assert names["layers.1.down"] == Source(name="model.layers.1.mlp.down_proj.weight")
    assert ("layers.0.q.bias" in names, "layers.0.down.bias" in names) == (attention, mlp)
    assert ("head" in names) == (not is_tied)
