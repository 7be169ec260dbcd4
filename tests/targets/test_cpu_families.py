"""Every family computes on the CPU target what `transformers` computed, however the tokens are put through it.

References are in `tests/reference` (see `make_references.py` there). They cross the borders of the sliding windows, of
the original contexts of scaled rotary embeddings, and of KV blocks.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from cpu_helpers import FloatArray, limits, run_logits

from ranvier.models import (
    DecoderSpec,
    PackedWeights,
    SafetensorsCheckpoint,
    WeightPlan,
    spec_of,
    supported_families,
    write_weights,
)
from ranvier.models.packing import DType, Quantize
from ranvier.targets.cpu import CpuOptions, CpuPrograms, load_cpu
from ranvier.targets.cpu.graph import build_decoder
from tiny_checkpoints import write_safetensors
from tiny_families import CASES, IDS, NUM_GREEDY, NUM_PROMPT, Reference, config, reference, weights

TOLERANCE = 5e-5
"""Ten times what was seen, and a tenth of what the wrong kind of GELU makes."""
Loaded = tuple[CpuPrograms, Reference]


@pytest.fixture(scope="module", params=list(CASES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp(request.param)
    return load(folder, request.param), reference(request.param)


def load(
    folder: Path, case: str, *, quantize: Quantize = "none", dtype: DType = "float32", kv: str = "auto"
) -> CpuPrograms:
    pack(folder, case, quantize, dtype)
    options = CpuOptions(dtype="float32", kv_cache_dtype=kv, num_threads=1)
    return load_cpu(spec_of(config(case)), folder / "packed", limits(length=128), options)


def pack(folder: Path, case: str, quantize: Quantize, dtype: DType) -> PackedWeights:
    (folder / "config.json").write_text(json.dumps(config(case)), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", weights(case))
    plan = WeightPlan(quantize=quantize, dtype=dtype)
    write_weights(SafetensorsCheckpoint(folder), plan, folder / "packed", lambda done, total: None)
    return PackedWeights(folder / "packed")


def assert_near(found: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_every_family_has_a_reference() -> None:
    assert {config(case)["model_type"] for case in CASES} == set(supported_families())


def test_prefill_gives_the_reference_logits_at_every_position(loaded: Loaded) -> None:
    programs, expected = loaded
    for length in range(1, len(IDS) + 1):
        assert_near(run_logits(programs, (0, IDS[:length], 0))[0], expected.logits[length - 1])


def test_decoding_token_by_token_gives_the_reference_logits(loaded: Loaded) -> None:
    programs, expected = loaded
    run_logits(programs, (1, IDS[:5], 0))
    for position in range(5, len(IDS)):
        assert_near(run_logits(programs, (1, [IDS[position]], position))[0], expected.logits[position])


def test_a_prompt_in_chunks_gives_the_reference_logits(loaded: Loaded) -> None:
    programs, expected = loaded
    for start, end in ((0, 32), (32, 50), (50, 64)):
        assert_near(run_logits(programs, (2, IDS[start:end], start))[0], expected.logits[end - 1])


def test_a_mixed_batch_gives_each_request_its_reference_logits(loaded: Loaded) -> None:
    programs, expected = loaded
    run_logits(programs, (0, IDS[:40], 0), (1, IDS[:32], 0))
    found = run_logits(programs, (0, [IDS[40]], 40), (1, IDS[32:61], 32), (2, IDS[:20], 0), (3, IDS[:1], 0))
    for row, position in zip(found, (40, 60, 19, 0), strict=True):
        assert_near(row, expected.logits[position])


def test_greedy_tokens_are_those_of_the_reference(loaded: Loaded) -> None:
    programs, expected = loaded
    ids = IDS[:NUM_PROMPT]
    row = run_logits(programs, (3, ids, 0))[0]
    for _ in range(NUM_GREEDY):
        ids = [*ids, int(row.argmax())]
        row = run_logits(programs, (3, ids[-1:], len(ids) - 1))[0]
    assert ids[NUM_PROMPT:] == expected.greedy


ONE_OF_EACH = [case for case in CASES if case in supported_families()]


@pytest.mark.parametrize("case", ONE_OF_EACH)
@pytest.mark.parametrize("quantize", ["int8", "none"])
def test_rounded_weights_and_an_8_bit_cache_stay_near_the_reference(
    tmp_path: Path, case: str, quantize: Quantize
) -> None:
    programs = load(tmp_path, case, quantize=quantize, dtype="bfloat16", kv="u8")
    expected = reference(case).logits[-1]
    run_logits(programs, (0, IDS[:50], 0))
    found = run_logits(programs, (0, IDS[50:], 50))[0]
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > 0.995


def expected_nodes(spec: DecoderSpec) -> dict[str, int]:
    """Fused operations that a compiled graph must have; each of them is several where fusing fails."""
    rotating = sum(spec.layer(index).rope is not None for index in range(spec.num_layers))
    a_layer = spec.layer_shapes()
    # Two layer norms of the same values share their first half.
    shared = spec.block == "parallel"
    norms = (sum(name.endswith("norm") for name in a_layer) - shared) * spec.num_layers + 1
    products = 4 * spec.num_layers + 1
    return {
        "RMS": norms if spec.norm.kind == "rms" else 0,
        "MVN": norms if spec.norm.kind == "layer" else 0,
        "RoPE": 2 * rotating,
        "PagedAttention": spec.num_layers,
        "FullyConnected": products,
    }


@pytest.mark.parametrize("case", CASES)
def test_what_is_fused_for_llama_is_fused_for_every_family(tmp_path: Path, case: str) -> None:
    spec = spec_of(config(case))
    graph, constants = build_decoder(spec, pack(tmp_path, case, "int8", "bfloat16"), 128)
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = Counter(str(node.get_rt_info()["layerType"].value) for node in compiled.get_runtime_model().get_ops())
    del constants
    wanted = expected_nodes(spec)
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("case", ["qwen2", "gpt2", "gpt_neox"])
def test_biases_are_a_part_of_their_products(tmp_path: Path, case: str) -> None:
    """What is left are residuals, gates or weights of layer norms, learned positions, and the log-sum-exp."""
    spec = spec_of(config(case))
    graph, constants = build_decoder(spec, pack(tmp_path, case, "int8", "bfloat16"), 128)
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = Counter(str(node.get_rt_info()["layerType"].value) for node in compiled.get_runtime_model().get_ops())
    del constants
    assert found["Eltwise"] == {"qwen2": 11, "gpt2": 13, "gpt_neox": 10}[case]
