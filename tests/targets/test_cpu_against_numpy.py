"""The CPU target computes what a plain NumPy Llama computes, however the tokens are put through it.

Random weights give logits of about unit size, so 1e-4 absolute is a close call for float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cpu_helpers import FloatArray, load_tiny, run_logits

from llama_reference import logits
from ranvier.targets.cpu import CpuPrograms
from tiny_checkpoints import TinyModel

MODELS = {
    "grouped queries, tied": TinyModel(),
    "multi-head, untied": TinyModel(seed=1, num_kv_heads=4, is_tied=False),
    "multi-query, three layers": TinyModel(seed=2, num_kv_heads=1, num_layers=3),
    "linear rope scaling": TinyModel(seed=3, rope="linear"),
    "llama3 rope scaling": TinyModel(seed=4, rope="llama3"),
    "biases everywhere": TinyModel(seed=5, has_attention_bias=True, has_mlp_bias=True),
    "head_dim apart from hidden size": TinyModel(seed=6, hidden_size=96, num_heads=3, num_kv_heads=1, head_dim=32),
}
IDS = [int(value) for value in np.random.default_rng(7).integers(0, 288, 100)]


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[CpuPrograms, FloatArray]:
    model = MODELS[request.param]
    return load_tiny(tmp_path, model), logits(model, model.weights(), IDS)


def test_prefill_gives_the_reference_logits(case: tuple[CpuPrograms, FloatArray]) -> None:
    programs, expected = case
    for length in (1, 2, 31, 32, 33, 64, 100):
        found = run_logits(programs, (0, IDS[:length], 0))[0]
        np.testing.assert_allclose(found, expected[length - 1], atol=1e-4)


def test_decoding_token_by_token_gives_the_reference_logits(case: tuple[CpuPrograms, FloatArray]) -> None:
    programs, expected = case
    run_logits(programs, (1, IDS[:30], 0))
    for position in range(30, 70):
        found = run_logits(programs, (1, [IDS[position]], position))[0]
        np.testing.assert_allclose(found, expected[position], atol=1e-4)


def test_a_prompt_in_chunks_gives_the_reference_logits(case: tuple[CpuPrograms, FloatArray]) -> None:
    programs, expected = case
    for start, end in ((0, 32), (32, 64), (64, 100)):
        found = run_logits(programs, (2, IDS[start:end], start))[0]
        np.testing.assert_allclose(found, expected[end - 1], atol=1e-4)


def test_a_mixed_batch_gives_each_request_its_reference_logits(case: tuple[CpuPrograms, FloatArray]) -> None:
    programs, expected = case
    run_logits(programs, (0, IDS[:40], 0), (1, IDS[:64], 0))
    found = run_logits(programs, (0, [IDS[40]], 40), (1, IDS[64:90], 64), (2, IDS[:20], 0), (3, IDS[:1], 0))
    for row, position in zip(found, (40, 89, 19, 0), strict=True):
        np.testing.assert_allclose(row, expected[position], atol=1e-4)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_weights_stay_near_the_reference(tmp_path: Path, quantize: str) -> None:
    model = TinyModel(seed=8)
    programs = load_tiny(tmp_path, model, quantize=quantize)  # type: ignore[arg-type]
    expected = logits(model, model.weights(), IDS)[-1]
    found = run_logits(programs, (0, IDS, 0))[0]
    similarity = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert similarity > (0.999 if quantize == "int8" else 0.9)


def test_log_sum_exp_is_that_of_the_logits(tmp_path: Path) -> None:
    from cpu_helpers import RecordingSampler

    from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan

    programs = load_tiny(tmp_path, TinyModel())
    recorder = RecordingSampler(programs)
    programs._sampler = recorder  # type: ignore[assignment]
    programs.run(StepPlan((Chunk(0, IDS, 0, True),), (), (SamplingRow(SamplingParams(), 0, IDS),)))
    expected = np.log(np.exp(recorder.logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(recorder.log_sums, expected, atol=1e-5)
