"""Every kind of GGUF tensor ends up as the right product on the CPU target.

The reference is the plain NumPy model over the values that the file stands for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cpu_helpers import FloatArray, limits, run_logits

from llama_reference import logits
from ranvier.models import WeightPlan, spec_of, write_weights
from ranvier.models.gguf_file import GgufCheckpoint
from ranvier.models.packing import Quantize
from ranvier.targets.cpu import CpuOptions, load_cpu
from tiny_checkpoints import TinyModel, gguf_weights, write_gguf

IDS = [int(value) for value in np.random.default_rng(5).integers(0, 288, 60)]
# K-quants have blocks of 256 columns.
MODEL = TinyModel(
    seed=9, hidden_size=256, intermediate_size=256, num_heads=4, num_kv_heads=2, head_dim=64, is_tied=False
)


def target_logits(tmp_path: Path, kind: str, quantize: Quantize) -> FloatArray:
    write_gguf(tmp_path / "model.gguf", MODEL, kind=kind)
    checkpoint = GgufCheckpoint(tmp_path / "model.gguf")
    plan = WeightPlan(quantize=quantize, dtype="float32")
    write_weights(checkpoint, plan, tmp_path / "weights", lambda done, total: None)
    options = CpuOptions(dtype="float32", kv_cache_dtype="auto", num_threads=1)
    programs = load_cpu(spec_of(checkpoint.config), tmp_path / "weights", limits(), options)
    run_logits(programs, (0, IDS[:-1], 0))
    return np.concatenate([run_logits(programs, (1, IDS, 0))[:1], run_logits(programs, (0, IDS[-1:], 59))[:1]])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q6_K"])
def test_blocks_held_exactly_give_the_reference_logits(tmp_path: Path, kind: str) -> None:
    expected = logits(MODEL, gguf_weights(MODEL, kind), IDS)[-1]
    for found in target_logits(tmp_path, kind, "none"):
        np.testing.assert_allclose(found, expected, atol=2e-4 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q6_K"])
def test_blocks_held_as_int8_rows_stay_near_the_reference(tmp_path: Path, kind: str) -> None:
    expected = logits(MODEL, gguf_weights(MODEL, kind), IDS)[-1]
    for found in target_logits(tmp_path, kind, "auto"):
        similarity = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        assert similarity > 0.999
