"""Reading LoRA adapters as PEFT saves them: what becomes of each tensor, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranvier.errors import ModelError
from ranvier.models import Adapter, load_adapter
from tiny_adapters import FloatArray, TinyAdapter, write_adapter
from tiny_families import config, weights

QUERY = TinyAdapter(seed=1, targets=("q_proj",))
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def shapes_of(case: str) -> dict[str, tuple[int, ...]]:
    return {name: values.shape for name, values in weights(case).items()}


def load(folder: Path, adapter: TinyAdapter, case: str = "llama") -> tuple[Adapter, dict[str, FloatArray]]:
    """The adapter as loaded, and what it adds by the checkpoint's names."""
    added = write_adapter(folder / "saved", adapter, shapes_of(case))
    return load_adapter("mine", folder / "saved", config(case)), added


def error_of(folder: Path, adapter: TinyAdapter, case: str = "llama") -> str:
    """The message behind the adapter's name and place."""
    with pytest.raises(ModelError) as caught:
        load(folder, adapter, case)
    start = f"adapter `mine` ({folder / 'saved'}): "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


def product(adapter: Adapter, name: str) -> FloatArray:
    part = adapter.parts[name]
    whole: FloatArray = part.up @ part.down
    return whole


def assert_same(found: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# What is read


def test_a_and_b_with_the_scale_give_what_is_added_to_each_matrix(tmp_path: Path) -> None:
    adapter, added = load(tmp_path, TinyAdapter(seed=1, targets=("q_proj", "down_proj"), rank=4, alpha=12.0))
    assert set(adapter.parts) == {"layers.0.q", "layers.1.q", "layers.0.down", "layers.1.down"}
    for layer in (0, 1):
        assert_same(product(adapter, f"layers.{layer}.q"), added[f"model.layers.{layer}.self_attn.q_proj.weight"])
        assert_same(product(adapter, f"layers.{layer}.down"), added[f"model.layers.{layer}.mlp.down_proj.weight"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_float_type_is_read(tmp_path: Path, dtype: str) -> None:
    adapter, added = load(tmp_path, replace(QUERY, dtype=dtype))
    found, expected = product(adapter, "layers.0.q"), added["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_allclose(
        found, expected, rtol=0, atol={"float32": 1e-6, "float16": 5e-3, "bfloat16": 5e-2}[dtype]
    )


def test_patterns_give_modules_ranks_and_alphas_of_their_own(tmp_path: Path) -> None:
    given = TinyAdapter(
        seed=1, targets=("q_proj", "k_proj", "v_proj"), ranks={"k_proj": 2}, alphas={"v_proj": 1.0, "k_proj": 5.0}
    )
    adapter, added = load(tmp_path, given)
    assert {name[-1]: part.down.shape[0] for name, part in adapter.parts.items()} == {"q": 4, "k": 2, "v": 4}
    for part in "qkv":
        assert_same(product(adapter, f"layers.1.{part}"), added[f"model.layers.1.self_attn.{part}_proj.weight"])


def test_a_pattern_is_a_regular_expression_for_the_end_of_the_name(tmp_path: Path) -> None:
    given = replace(QUERY, config={"alpha_pattern": {r"layers\.1\..*q_proj": 4.0, "proj": 100.0, "^q_proj": 50.0}})
    adapter, added = load(tmp_path, given)
    assert_same(product(adapter, "layers.0.q"), added["model.layers.0.self_attn.q_proj.weight"])
    assert_same(product(adapter, "layers.1.q"), added["model.layers.1.self_attn.q_proj.weight"] / 2)


def test_a_rank_stabilized_adapter_is_divided_by_the_root_of_its_rank(tmp_path: Path) -> None:
    adapter, added = load(tmp_path, replace(QUERY, rank=9, is_rank_stabilized=True))
    assert_same(product(adapter, "layers.0.q"), added["model.layers.0.self_attn.q_proj.weight"])


def test_only_the_layers_named_are_adapted(tmp_path: Path) -> None:
    adapter, _ = load(tmp_path, replace(QUERY, layers=(1,)))
    assert set(adapter.parts) == {"layers.1.q"}


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": r".*\.self_attn\.q_proj"},
        {"target_modules": r"model\.layers\.[01]\.self_attn\.q_proj"},
        {"target_modules": ["self_attn.q_proj", "query_key_value"]},
        {"target_modules": "all-linear", "exclude_modules": r".*(k|v|o|gate|up|down)_proj"},
        {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]},
        {"layers_to_transform": [], "layers_pattern": "layers"},
        {"init_lora_weights": "gaussian", "peft_version": "0.17.0", "lora_dropout": 0.1},
        {"fan_in_fan_out": True},
        {"bias": "none", "modules_to_save": [], "rank_pattern": None},
    ],
)
def test_configs_of_many_releases_are_read(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    adapter, _ = load(tmp_path, replace(QUERY, config=changes))
    assert set(adapter.parts) == {"layers.0.q", "layers.1.q"}


def test_the_rows_of_a_fused_tensor_are_cut_from_b_and_a_is_shared(tmp_path: Path) -> None:
    adapter, added = load(tmp_path, TinyAdapter(seed=1, targets=("qkv_proj", "gate_up_proj")), "phi3")
    parts = adapter.parts
    assert set(parts) == {f"layers.{layer}.{name}" for layer in (0, 1) for name in ("q", "k", "v", "gate", "up")}
    assert parts["layers.0.q"].down is parts["layers.0.k"].down is parts["layers.0.v"].down
    together = np.concatenate([product(adapter, f"layers.0.{name}") for name in "qkv"])
    assert_same(together, added["model.layers.0.self_attn.qkv_proj.weight"])
    together = np.concatenate([product(adapter, "layers.1.gate"), product(adapter, "layers.1.up")])
    assert_same(together, added["model.layers.1.mlp.gate_up_proj.weight"])


def test_a_tensor_fused_head_by_head_is_cut_head_by_head(tmp_path: Path) -> None:
    adapter, added = load(tmp_path, TinyAdapter(seed=1, targets=("query_key_value",)), "gpt_neox")
    whole = added["gpt_neox.layers.0.attention.query_key_value.weight"].reshape(4, 3, 16, 64)
    for index, name in enumerate("qkv"):
        assert_same(product(adapter, f"layers.0.{name}"), whole[:, index].reshape(64, 64))


@pytest.mark.parametrize("case", ["gpt2", "gpt2_relu"])
def test_transposed_matrices_have_their_adapters_in_the_usual_orientation(tmp_path: Path, case: str) -> None:
    """`gpt2_relu` is saved as the bare model, so its adapter's names have no `transformer.` either."""
    adapter, added = load(tmp_path, TinyAdapter(seed=1, targets=("attn.c_attn", "c_fc"), is_conv1d=True), case)
    base = "transformer." if case == "gpt2" else ""
    assert_same(product(adapter, "layers.1.up"), added[f"{base}h.1.mlp.c_fc.weight"].T)
    together = np.concatenate([product(adapter, f"layers.0.{name}") for name in "qkv"])
    assert_same(together, added[f"{base}h.0.attn.c_attn.weight"].T)


# What is refused

LISTED = "`down_proj`, `gate_proj`, `k_proj`, `o_proj`, `q_proj`, `up_proj`, `v_proj`"
MERGE = "merge the adapter into the model"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "IA3"}, "`peft_type` is 'IA3'; only LORA adapters can be served"),
        ({"peft_type": None}, "`peft_type` is None; only LORA adapters can be served"),
        ({"use_dora": True}, f"`use_dora` is set: DoRA also scales the model's own weights; {MERGE}"),
        ({"use_new": True}, f"`use_new` is set: a kind of LoRA that is not known; {MERGE}"),
        ({"use_qalora": True}, f"`use_qalora` is set: QA-LoRA pools its input; {MERGE}"),
        (
            {"bias": "lora_only"},
            "`bias` is 'lora_only': the model's own biases are not replaced; train it with `bias` none",
        ),
        (
            {"lora_bias": True},
            "`lora_bias` is set: an adapter's own biases are not added; train it with `lora_bias` false",
        ),
        (
            {"modules_to_save": ["lm_head"]},
            f"`modules_to_save` is set: whole modules are not replaced; train it without, or {MERGE}",
        ),
        (
            {"trainable_token_indices": [7]},
            f"`trainable_token_indices` is set: embeddings are not adapted; train it without, or {MERGE}",
        ),
        (
            {"target_parameters": ["experts"]},
            "`target_parameters` is set: only whole modules are adapted; name them in `target_modules`",
        ),
        ({"layer_replication": [[0, 2]]}, f"`layer_replication` is set: layers are not repeated; {MERGE}"),
        (
            {"alora_invocation_tokens": [1]},
            "`alora_invocation_tokens` is set: adapters are on for the whole request; train a plain LoRA adapter",
        ),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "`init_lora_weights` is 'pissa_niter_4', which changes the model's own weights; save the adapter with "
            "`path_initial_model_for_weight_conversion`, or merge it into the model",
        ),
        ({"r": 0}, "`r` must be a whole number of 1 or more. Given: 0"),
        ({"r": None}, "`r` must be a whole number of 1 or more. Given: None"),
        ({"r": True}, "`r` must be a whole number of 1 or more. Given: True"),
        ({"lora_alpha": "16"}, "`lora_alpha` must be a number. Given: '16'"),
        ({"lora_alpha": float("nan")}, "`lora_alpha` must be a number. Given: nan"),
        ({"rank_pattern": {"q_proj": -1}}, "`rank_pattern` must be a whole number of 1 or more. Given: -1"),
        ({"alpha_pattern": {"q_proj": None}}, "`alpha_pattern` must be a number. Given: None"),
        ({"alpha_pattern": [1]}, "`alpha_pattern` must be an object. Given: [1]"),
        (
            {"rank_pattern": {"(": 1}},
            "`rank_pattern` holds '(', which is no regular expression: "
            "missing ), unterminated subpattern at position 0",
        ),
        (
            {"target_modules": "*"},
            "`target_modules` holds '*', which is no regular expression: nothing to repeat at position 0",
        ),
        ({"target_modules": [1]}, "`target_modules` must be a list of names or a regular expression. Given: [1]"),
        (
            {"target_modules": None},
            "`target_modules` is missing or empty; name the modules that the adapter is for",
        ),
        ({"target_modules": []}, "`target_modules` is missing or empty; name the modules that the adapter is for"),
        ({"layers_to_transform": ["a"]}, "`layers_to_transform` must be layer numbers. Given: ['a']"),
    ],
)
def test_what_a_config_may_not_say(tmp_path: Path, changes: Mapping[str, Any], text: str) -> None:
    assert error_of(tmp_path, replace(QUERY, config=changes)) == text


def ones(*shape: int) -> FloatArray:
    return np.ones(shape, np.float32)


FOR_THIS = "the adapter's ranks and this model call for"
STRANGE = (
    "belongs to nothing that can be adapted here: lora_A.weight and lora_B.weight of "
    f"{LISTED}; check that it was trained for this model, with PEFT's plain LoRA"
)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (
            {f"{Q0}.lora_A.weight": ones(5, 64)},
            f"tensor `{Q0}.lora_A.weight` has shape [5, 64]; {FOR_THIS} [4, 64]; check that it was trained for this "
            "model",
        ),
        (
            {f"{Q0}.lora_B.weight": ones(64, 4, 1)},
            f"tensor `{Q0}.lora_B.weight` has shape [64, 4, 1]; {FOR_THIS} [64, 4]; check that it was trained for "
            "this model",
        ),
        (
            {f"{Q0}.lora_B.weight": None},
            f"tensor `{Q0}.lora_B.weight` is missing, which `target_modules` calls for; the file is incomplete, save "
            "the adapter again",
        ),
        (
            {f"{Q0}.lora_A.weight": None, f"{Q0}.lora_B.weight": None},
            f"tensor `{Q0}.lora_A.weight` (and 1 more) is missing, which `target_modules` calls for; the file is "
            "incomplete, save the adapter again",
        ),
        (
            {f"{Q0}.lora_magnitude_vector": ones(64)},
            f"tensor `{Q0}.lora_magnitude_vector` {STRANGE}",
        ),
        (
            {f"{Q0}.lora_A.weight": np.full((4, 64), np.nan, np.float32)},
            f"tensor `{Q0}.lora_A.weight` holds values that are not finite; the adapter is damaged",
        ),
        (
            {"base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight": ones(4, 64)},
            f"tensor `base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight` {STRANGE}",
        ),
        (
            {"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight": ones(4, 64)},
            "tensor `base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight` is there, but `target_modules` "
            "and `layers_to_transform` leave `model.layers.0.self_attn.k_proj` out; save it again",
        ),
        (
            {
                "base_model.model.model.embed_tokens.lora_embedding_A": ones(4, 96),
                "base_model.model.model.embed_tokens.lora_embedding_B": ones(64, 4),
            },
            "tensor `base_model.model.model.embed_tokens.lora_embedding_A` (and 1 more) adapts the embedding or the "
            "head, which is not done; train it for the layers' modules only",
        ),
        (
            {"base_model.model.lm_head.lora_A.weight": ones(4, 64)},
            "tensor `base_model.model.lm_head.lora_A.weight` adapts the embedding or the head, which is not done; "
            "train it for the layers' modules only",
        ),
        (
            {"model.layers.0.self_attn.q_proj.lora_A.weight": ones(4, 64)},
            "tensor `model.layers.0.self_attn.q_proj.lora_A.weight` does not begin with `base_model.model.`; save the "
            "adapter with PEFT again",
        ),
    ],
)
def test_what_is_wrong_with_a_tensor(tmp_path: Path, tensors: Mapping[str, FloatArray | None], text: str) -> None:
    assert error_of(tmp_path, replace(QUERY, tensors=tensors)) == text


def test_targets_that_the_model_does_not_have_are_told_with_those_it_has(tmp_path: Path) -> None:
    nothing = {f"model.layers.{layer}.self_attn.q_proj": None for layer in (0, 1)}
    absent = {f"base_model.model.{name}.lora_{side}.weight": None for name in nothing for side in "AB"}
    changes = {"target_modules": ["c_attn"]}
    text = f"`target_modules` names no module of this model, which has {LISTED}"
    assert error_of(tmp_path, replace(QUERY, config=changes, tensors=absent)) == text


def test_a_rank_that_is_not_the_tensors_is_refused(tmp_path: Path) -> None:
    text = error_of(tmp_path, replace(QUERY, config={"rank_pattern": {"layers.1.self_attn.q_proj": 6}}))
    q1 = Q0.replace("layers.0", "layers.1")
    assert text == (
        f"tensor `{q1}.lora_A.weight` has shape [4, 64]; {FOR_THIS} [6, 64]; check that it was trained for this model"
    )


def test_an_adapter_of_another_size_is_refused(tmp_path: Path) -> None:
    shapes = {name: tuple(2 * size for size in shape) for name, shape in shapes_of("llama").items()}
    write_adapter(tmp_path / "saved", QUERY, shapes)
    with pytest.raises(ModelError) as caught:
        load_adapter("mine", tmp_path / "saved", config("llama"))
    assert f"`{Q0}.lora_A.weight` has shape [4, 128]; {FOR_THIS} [4, 64]" in str(caught.value)


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    write_adapter(tmp_path, QUERY, shapes_of("llama"))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError) as caught:
        load_adapter("mine", tmp_path, config("llama"))
    assert str(caught.value) == (
        f"adapter `mine` ({tmp_path}): holds pickled weights (.bin, .pt), which can run code when loaded; save the "
        "adapter as `adapter_model.safetensors` (`save_pretrained(..., safe_serialization=True)`)"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adapter_config.json", "{0}: `adapter_config.json` is missing"),
        (
            "adapter_model.safetensors",
            "`adapter_model.safetensors` is missing; save the adapter with `safe_serialization=True`",
        ),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    write_adapter(tmp_path, QUERY, shapes_of("llama"))
    (tmp_path / name).unlink()
    with pytest.raises(ModelError) as caught:
        load_adapter("mine", tmp_path, config("llama"))
    assert str(caught.value) == f"adapter `mine` ({tmp_path}): " + text.format(tmp_path)


def test_a_damaged_config_is_told_with_its_place(tmp_path: Path) -> None:
    write_adapter(tmp_path, QUERY, shapes_of("llama"))
    (tmp_path / "adapter_config.json").write_text(json.dumps([1]), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_adapter("mine", tmp_path, config("llama"))
    place = tmp_path / "adapter_config.json"
    assert str(caught.value) == f"adapter `mine` ({tmp_path}): {place}: a JSON object is needed"
