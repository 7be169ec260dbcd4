"""Families: which there are, what their configs become, and where their checkpoints keep each weight."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_configs import PUBLISHED

from ranvier.errors import ModelError
from ranvier.models import (
    PackedWeights,
    SafetensorsCheckpoint,
    WeightPlan,
    refused_families,
    spec_of,
    supported_families,
    write_weights,
)
from ranvier.models.families import family_of
from ranvier.models.sources import Rows, Source
from ranvier.models.spec import LayerSpec
from ranvier.models.weights import Dense, dequantize
from tiny_checkpoints import write_safetensors
from tiny_families import CASES, FloatArray, config, reference, weights

FAMILIES = (
    *("falcon", "gemma", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3"),
    *("qwen2", "qwen3", "smollm3", "starcoder2"),
)
LISTED = ", ".join(FAMILIES)


def test_these_families_are_supported() -> None:
    assert supported_families() == FAMILIES
    assert [family_of({"model_type": name}).model_type for name in FAMILIES] == list(FAMILIES)


# Which there are not


@pytest.mark.parametrize(
    ("model_type", "nearest"),
    [
        ("qwen4", "; the nearest: `qwen3`, `qwen2`"),
        ("llama4", "; the nearest: `llama`"),
        ("gpt_neox_japanese", "; the nearest: `gpt_neox`"),
        ("rwkv", ""),
        (None, ""),
        (7, ""),
        (["llama"], "; the nearest: `llama`"),
    ],
)
def test_an_unknown_family_is_refused_with_those_there_are(model_type: object, nearest: str) -> None:
    with pytest.raises(ModelError) as caught:
        spec_of({"model_type": model_type})
    assert str(caught.value) == f"`model_type` {model_type!r} is not supported; supported: {LISTED}{nearest}"


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt_oss", "gemma2"])
def test_a_family_that_cannot_be_served_well_is_refused_with_the_reason(model_type: str) -> None:
    with pytest.raises(ModelError) as caught:
        spec_of({"model_type": model_type})
    assert str(caught.value) == f"`model_type` '{model_type}' is not supported: {refused_families()[model_type]}"
    word = "soft cap" if model_type == "gemma2" else "sparse experts"
    assert word in refused_families()[model_type]


def test_no_family_is_both_supported_and_refused() -> None:
    assert set(supported_families()) & set(refused_families()) == set()


# Sizes


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_number_of_parameters(name: str) -> None:
    published, parameters = PUBLISHED[name]
    assert spec_of(published).num_parameters == parameters


def test_every_family_has_a_published_model() -> None:
    assert {published["model_type"] for published, _ in PUBLISHED.values()} == set(FAMILIES)


@pytest.mark.parametrize("case", CASES)
def test_a_spec_has_as_many_parameters_as_the_checkpoint_has_values(case: str) -> None:
    shapes = reference(case).shapes
    assert spec_of(config(case)).num_parameters == sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_weight_of_the_spec_has_a_place_in_the_checkpoint(name: str) -> None:
    published, _ = PUBLISHED[name]
    spec, family = spec_of(published), family_of(published)
    layers = {f"layers.{layer}.{part}" for layer in range(spec.num_layers) for part in spec.layer_shapes()}
    assert set(family.weight_names(spec)) == layers | set(spec.shared_shapes())


# Fields


def layers_of(case: str, **changes: Any) -> list[LayerSpec]:
    spec = spec_of(config(case) | changes)
    return [spec.layer(index) for index in range(spec.num_layers)]


@pytest.mark.parametrize(
    ("case", "changes", "windows"),
    [
        ("mistral", {}, [8, 8]),
        ("mistral", {"sliding_window": None}, [None, None]),
        ("qwen2", {}, [None, None]),
        ("qwen2_window", {}, [None, 8]),
        ("qwen2_window", {"max_window_layers": 7}, [None, None]),
        ("qwen2_window", {"layer_types": ["sliding_attention", "full_attention"]}, [8, None]),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}, [None, 12]),
        ("gemma3_text", {}, [8, 8, None, 8]),
        ("gemma3_text", {"sliding_window_pattern": None, "_sliding_window_pattern": 2}, [8, None, 8, None]),
        ("gemma3_text", {"sliding_window_pattern": 5}, [8, 8, 8, 8]),
        ("gemma3_text_types", {}, [None, 8]),
        ("phi3", {}, [16, 16]),
        ("phi3_long", {}, [None, None]),
        ("smollm3", {}, [None] * 4),
        ("smollm3_list", {}, [8, None, None]),
        ("starcoder2", {}, [16, 16]),
        ("llama", {"sliding_window": 8}, [None, None]),
    ],
)
def test_each_layer_has_the_window_that_the_config_gives_it(
    case: str, changes: dict[str, Any], windows: list[int | None]
) -> None:
    assert [layer.window for layer in layers_of(case, **changes)] == windows


def test_a_mistral_config_without_the_field_means_a_window_of_4096() -> None:
    given = config("mistral")
    del given["sliding_window"]
    assert spec_of(given).layer(0).window == 4096


@pytest.mark.parametrize(
    ("case", "changes", "rotates"),
    [
        ("smollm3", {}, [True, False, True, False]),
        ("smollm3", {"no_rope_layer_interval": None}, [True, True, True, False]),
        ("smollm3", {"no_rope_layer_interval": 5}, [True] * 4),
        ("smollm3_list", {}, [False, True, True]),
        ("gpt2", {}, [False, False]),
    ],
)
def test_layers_without_rotary_embedding(case: str, changes: dict[str, Any], rotates: list[bool]) -> None:
    assert [layer.rope is not None for layer in layers_of(case, **changes)] == rotates


def test_local_and_global_layers_of_gemma_3_have_bases_of_their_own() -> None:
    for case, bases in (("gemma3_text", [1e4, 1e4, 1e6, 1e4]), ("gemma3_text_types", [5e5, 5e3])):
        ropes = [layer.rope for layer in layers_of(case)]
        assert [rope and rope.theta for rope in ropes] == bases
        assert [bool(rope and rope.scaling) for rope in ropes] == [layer.window is None for layer in layers_of(case)]


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (
            "gemma",
            {"hidden_act": "silu"},
            "`hidden_act` is 'silu', which is not supported; use gelu, gelu_pytorch_tanh",
        ),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "`final_logit_softcapping` is 30.0"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "`attn_logit_softcapping` is 50.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "`use_bidirectional_attention` is True"),
        ("gemma3_text_types", {"layer_types": ["full_attention"]}, "`layer_types` must be a list of 2 values out of"),
        ("qwen2_window", {"layer_types": ["full_attention", "linear"]}, "`layer_types` must be a list of 2 values"),
        ("smollm3_list", {"no_rope_layers": [True, False, True]}, "`no_rope_layers` must be a list of 3 values out of"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "`scale_attn_by_inverse_layer_idx` is True"),
        ("gpt2", {"n_head": 5}, "`n_embd` is 64, which is not supported; use a multiple of `n_head`, 5"),
        ("gpt2", {"activation_function": "tanh"}, "`activation_function` is 'tanh', which is not supported; use silu,"),
        ("gpt_neox", {"rotary_pct": 0.2}, "`partial_rotary_factor` is 0.2, which is not supported; use an even share"),
        ("falcon", {"alibi": True}, "`alibi` is True, which is not supported; use a model with rotary positions"),
        ("falcon_groups", {"num_kv_heads": 3}, "`num_attention_heads` is 4, which is not supported; use a divisor"),
        ("phi3_long", {"rope_scaling": {"type": "longrope"}}, "`rope_scaling.short_factor` is missing"),
        ("llama_yarn", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "`rope_scaling.mscale`"),
        ("qwen2_window", {"num_hidden_layers": 10**12}, "`num_hidden_layers` is 1000000000000, which is not supported"),
        ("mistral", {"sliding_window": 0}, "`sliding_window` must be a whole number above 0. Given: 0"),
    ],
)
def test_what_a_family_cannot_do_is_refused_with_the_field(case: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        spec_of(config(case) | changes)
    assert str(caught.value).startswith(f"config.json: {message}")


def test_long_rope_of_early_phi_3_releases_is_read_under_its_old_names() -> None:
    given = config("phi3_long")
    for kind in ("su", "yarn"):
        assert spec_of(given | {"rope_scaling": given["rope_scaling"] | {"type": kind}}) == spec_of(given)


# Where weights stand


def test_rows_are_taken_out_of_every_period() -> None:
    values = np.arange(12)
    assert Rows(start=0, stop=2, every=12).of(values).tolist() == [0, 1]
    assert Rows(start=1, stop=3, every=4).of(values).tolist() == [1, 2, 5, 6, 9, 10]
    assert Rows(start=1, stop=2, every=2).of(values.reshape(4, 3)).tolist() == [[3, 4, 5], [9, 10, 11]]


def test_a_transposed_source_is_turned_before_its_rows_are_taken() -> None:
    stored = np.arange(6, dtype=np.float32).reshape(2, 3)
    source = Source(name="w", rows=Rows(start=1, stop=3, every=3), is_transposed=True)
    assert dequantize(source.take(Dense(stored))).tolist() == [[1, 4], [2, 5]]


def write(folder: Path, case: str, values: dict[str, FloatArray]) -> PackedWeights:
    (folder / "config.json").write_text(json.dumps(config(case)), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", values)
    plan = WeightPlan(quantize="none", dtype="float32")
    write_weights(SafetensorsCheckpoint(folder), plan, folder / "packed", lambda done, total: None)
    return PackedWeights(folder / "packed")


def test_fused_rows_come_out_in_the_checkpoint_s_order(tmp_path: Path) -> None:
    values = weights("falcon_groups")
    fused = values["transformer.h.1.self_attention.query_key_value.weight"].reshape(2, 4, 16, 64)
    packed = write(tmp_path, "falcon_groups", values)

    assert np.array_equal(dequantize(packed.read("layers.1.q")), fused[:, :2].reshape(64, 64))
    assert np.array_equal(dequantize(packed.read("layers.1.k")), fused[:, 2].reshape(32, 64))
    assert np.array_equal(dequantize(packed.read("layers.1.v")), fused[:, 3].reshape(32, 64))


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", (128, 64)),
        ("phi3", "model.layers.1.mlp.gate_up_proj.weight", (192, 64)),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", (64, 192)),
        ("gpt2", "transformer.h.0.attn.c_attn.bias", (192,)),
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.weight", (192, 64)),
        ("falcon", "transformer.h.0.self_attention.query_key_value.weight", (96, 64)),
    ],
)
def test_a_fused_tensor_must_hold_all_parts_and_no_more(
    tmp_path: Path, case: str, name: str, shape: tuple[int, ...]
) -> None:
    values = weights(case)
    assert values[name].shape == shape
    for given in (np.concatenate([values[name], values[name]]), values[name][:-2]):
        with pytest.raises(ModelError) as caught:
            write(tmp_path, case, values | {name: given})
        assert str(caught.value) == (
            f"tensor `{name}` has shape {list(given.shape)}; its config calls for {list(shape)}"
        )


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("gpt2", ("transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias", "lm_head.weight")),
        ("gpt2_relu", ("h.0.attn.bias", "h.0.attn.masked_bias", "lm_head.weight")),
        ("gpt_neox", ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq")),
        ("falcon", ("lm_head.weight",)),
        ("llama", ("model.layers.0.self_attn.rotary_emb.inv_freq",)),
    ],
)
def test_buffers_and_a_tied_head_saved_again_are_left_alone(tmp_path: Path, case: str, names: tuple[str, ...]) -> None:
    plain = weights(case)
    packed = write(tmp_path, case, plain | dict.fromkeys(names, np.ones((4, 4), np.float32)))
    assert packed.read("layers.0.q").shape == (64, 64)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_learned_positions_are_never_rounded(tmp_path: Path, quantize: Any) -> None:
    write(tmp_path, "gpt2", weights("gpt2"))
    plan = WeightPlan(quantize=quantize, dtype="bfloat16")
    write_weights(SafetensorsCheckpoint(tmp_path), plan, tmp_path / "packed", lambda done, total: None)

    found = dequantize(PackedWeights(tmp_path / "packed").read("positions"))
    assert np.array_equal(found, weights("gpt2")["transformer.wpe.weight"])
