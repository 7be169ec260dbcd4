"""LoRA adapters on the CPU target: merged by hand they give the same logits, and a batch may mix them.

The references load the same checkpoint with `W + scale * B A` in place of `W`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from adapter_helpers import adapted_logits, load_adapted, load_weights
from cpu_helpers import FloatArray, run_logits
from engine_runs import Generated, engine_request, run_engine
from test_cpu_families import pack

from ranvier.core import EngineRequest, Limits, SamplingParams
from ranvier.models import Adapter, load_adapter, spec_of
from ranvier.models.packing import DType, Quantize
from ranvier.targets.cpu import layer_weights
from ranvier.targets.cpu.graph import STEP_INPUTS, build_decoder
from ranvier.targets.cpu.precision import has_bfloat16
from tiny_adapters import TinyAdapter, write_adapter
from tiny_families import IDS, config, weights

TOLERANCE = 1e-4
QUERY_AND_VALUE = ("q_proj", "v_proj")
ALL_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

FAMILIES: dict[str, tuple[TinyAdapter, ...]] = {
    "llama": (
        TinyAdapter(seed=1, targets=QUERY_AND_VALUE),
        TinyAdapter(seed=2, targets=ALL_LLAMA, rank=3, alphas={"down_proj": 2.0}, ranks={"k_proj": 1}),
        TinyAdapter(seed=3, targets=("o_proj", "up_proj"), layers=(1,), is_rank_stabilized=True),
    ),
    "llama_biases": (TinyAdapter(seed=1, targets=ALL_LLAMA),),
    "qwen3": (TinyAdapter(seed=1, targets=ALL_LLAMA),),
    "gemma3_text": (TinyAdapter(seed=1, targets=ALL_LLAMA, alpha=2.0),),
    "olmo2": (TinyAdapter(seed=1, targets=ALL_LLAMA),),
    "granite": (TinyAdapter(seed=1, targets=ALL_LLAMA),),
    "starcoder2": (TinyAdapter(seed=1, targets=("q_proj", "c_fc", "c_proj")),),
    "phi3": (
        TinyAdapter(seed=1, targets=("qkv_proj",)),
        TinyAdapter(seed=2, targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), rank=7),
    ),
    "gpt2": (TinyAdapter(seed=1, targets=("c_attn", "c_proj", "c_fc"), is_conv1d=True),),
    # Its checkpoint is that of the bare model, without `transformer.` in front.
    "gpt2_relu": (TinyAdapter(seed=1, targets=("c_attn",), is_conv1d=True),),
    "gpt_neox": (TinyAdapter(seed=1, targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),),
    "falcon": (TinyAdapter(seed=1, targets=("query_key_value", "dense")),),
    "falcon_groups": (TinyAdapter(seed=1, targets=("query_key_value", "dense_4h_to_h")),),
}


def assert_near(found: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", FAMILIES)
def test_an_adapter_computes_what_its_weights_merged_by_hand_compute(tmp_path: Path, case: str) -> None:
    named = {f"adapter {number}": adapter for number, adapter in enumerate(FAMILIES[case])}
    programs, by_hand = load_adapted(tmp_path, case, named)
    plain = run_logits(programs, (0, IDS[:33], 0))[0]
    for number, expected in enumerate(by_hand, 1):
        reference = run_logits(expected, (0, IDS[:33], 0))[0]
        assert np.abs(reference - plain).max() > 0.05, "the adapter changes next to nothing"
        assert_near(adapted_logits(programs, (0, IDS[:33], 0, number))[0], reference)
        for position in range(33, 40):
            found = adapted_logits(programs, (0, [IDS[position]], position, number))[0]
            assert_near(found, run_logits(expected, (0, [IDS[position]], position))[0])


@pytest.mark.parametrize("case", ["llama", "phi3"])
def test_one_step_may_mix_all_adapters_and_none(tmp_path: Path, case: str) -> None:
    named = {f"adapter {number}": adapter for number, adapter in enumerate(FAMILIES[case])}
    programs, by_hand = load_adapted(tmp_path, case, named)
    models = [load_weights(tmp_path / "plain", case, weights(case)), *by_hand]
    prompts = [IDS[:20], IDS[5:40], IDS[3:4], IDS[30:64]][: len(models)]
    next_ids = [[7], [8, 9], [10], [11]][: len(models)]
    order = range(len(models) - 1, -1, -1)

    def assert_each_is_its_models(pieces: list[list[int]], starts: list[int]) -> None:
        found = adapted_logits(programs, *((n, pieces[n], starts[n], n) for n in order))
        for row, n in zip(found, order, strict=True):
            assert_near(row, run_logits(models[n], (0, pieces[n], starts[n]))[0])

    assert_each_is_its_models(prompts, [0] * len(models))
    assert_each_is_its_models(next_ids, [len(prompt) for prompt in prompts])


def test_matrices_that_are_not_held_alike_get_what_adapters_add_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_weights, "concat_rows", lambda parts: None)
    programs, (expected,) = load_adapted(tmp_path, "phi3", {"all": FAMILIES["phi3"][1]})
    found = adapted_logits(programs, (0, IDS[:33], 0, 1), (1, IDS[:20], 0, 0))
    assert_near(found[0], run_logits(expected, (0, IDS[:33], 0))[0])
    assert_near(found[1], run_logits(programs, (2, IDS[:20], 0))[0])


def test_capabilities_name_the_adapters_in_their_order(tmp_path: Path) -> None:
    adapters = {"one": FAMILIES["llama"][0], "two": FAMILIES["llama"][2]}
    programs, by_hand = load_adapted(tmp_path, "llama", adapters)
    assert programs.capabilities.adapters == ("one", "two")
    assert by_hand[0].capabilities.adapters == ()


def loaded_adapters(folder: Path, case: str) -> list[Adapter]:
    shapes = {name: values.shape for name, values in weights(case).items()}
    for number, adapter in enumerate(FAMILIES[case]):
        write_adapter(folder / str(number), adapter, shapes)
    return [load_adapter(str(number), folder / str(number), config(case)) for number in range(len(FAMILIES[case]))]


def node_counts(model: ov.Model) -> Counter[str]:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return Counter(str(node.get_rt_info()["layerType"].value) for node in compiled.get_runtime_model().get_ops())


def test_without_adapters_the_model_has_no_trace_of_them(tmp_path: Path) -> None:
    plain, _constants = build_decoder(spec_of(config("llama")), pack(tmp_path, "llama", "int8", "bfloat16"), 128)
    names = [port.any_name for port in plain.inputs]
    assert tuple(names[: len(STEP_INPUTS)]) == STEP_INPUTS
    assert all(name.endswith("_cache") for name in names[len(STEP_INPUTS) :])


def test_an_adapter_adds_two_products_to_each_group_of_matrices_that_it_is_for(tmp_path: Path) -> None:
    """q, k and v are one group, gate and up another; however many adapters there are."""
    spec, packed = spec_of(config("llama")), pack(tmp_path, "llama", "int8", "bfloat16")
    adapters = loaded_adapters(tmp_path, "llama")
    plain, _kept = build_decoder(spec, packed, 128)
    base = node_counts(plain)
    for used, num_groups in ((adapters[:1], 2), (adapters[2:], 2), (adapters, 8)):
        model, _constants = build_decoder(spec, packed, 128, used)
        found = node_counts(model)
        assert found["FullyConnected"] == base["FullyConnected"] + 2 * num_groups
        assert {name: found[name] for name in ("RMS", "RoPE", "PagedAttention")} == {
            name: base[name] for name in ("RMS", "RoPE", "PagedAttention")
        }


# The same bits


@pytest.mark.skipif(not has_bfloat16(ov.Core()), reason="the promise holds in the bfloat16 modes")
@pytest.mark.parametrize("case", ["llama", "phi3", "gpt2"])
@pytest.mark.parametrize(("quantize", "dtype"), [("int8", "bfloat16"), ("none", "bfloat16")])
def test_tokens_and_logprobs_do_not_depend_on_the_adapters_beside(
    tmp_path: Path, case: str, quantize: Quantize, dtype: DType
) -> None:
    adapters = loaded_adapters(tmp_path, case)
    programs = load_weights(tmp_path / "packed", case, weights(case), adapters, quantize=quantize, dtype=dtype)
    requests = [
        replace(engine_request(str(number), ids, 8, sampling), adapter=name)
        for number, (ids, sampling, name) in enumerate(mixed(len(adapters)))
    ]
    alone: Generated = {}
    for request in requests:
        alone |= run(programs, [[request]])
    assert run(programs, [requests]) == alone
    assert run(programs, [requests[n::4] for n in (2, 0, 3, 1)]) == alone


def mixed(num_adapters: int) -> list[tuple[list[int], SamplingParams, str | None]]:
    """Prompts that begin alike, with each adapter and none."""
    names = [None, *(str(number) for number in range(num_adapters))]
    lengths = [2, 31, 33, 40, 50, 64]
    return [
        (IDS[:length], SamplingParams(do_sample=bool(number % 2), seed=number), names[number % len(names)])
        for number, length in enumerate(lengths * 2)
    ]


def run(programs: object, arrivals: list[list[EngineRequest]]) -> Generated:
    limits = Limits(batch_size=4, sequence_length=128, max_input_tokens=127, max_batch_prefill_tokens=64)
    return run_engine(programs, arrivals, limits)  # type: ignore[arg-type]  # it is `CpuPrograms`


def test_a_request_without_adapter_has_the_bits_of_a_server_without_adapters(tmp_path: Path) -> None:
    request = engine_request("plain", IDS[:40], 12, SamplingParams())
    with_adapters = load_weights(tmp_path / "with", "llama", weights("llama"), loaded_adapters(tmp_path, "llama"))
    without = load_weights(tmp_path / "without", "llama", weights("llama"))
    assert run(with_adapters, [[request]]) == run(without, [[request]])
