"""A GGUF file of each architecture computes what the checkpoint does that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cpu_helpers import FloatArray, limits, run_logits

from ranvier.models import Checkpoint, SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.models.gguf_file import GgufCheckpoint
from ranvier.models.packing import Quantize
from ranvier.targets.cpu import CpuOptions, load_cpu
from tiny_checkpoints import write_safetensors
from tiny_families import IDS, reference
from tiny_ggufs import GGUF_CASES, GgufCase, write_family_gguf

TOLERANCE = 1e-4


def logits(folder: Path, checkpoint: Checkpoint, quantize: Quantize = "none") -> FloatArray:
    """After 50 tokens in one step, and after the next 14: across every window and context."""
    plan = WeightPlan(quantize=quantize, dtype="float32")
    write_weights(checkpoint, plan, folder / "packed", lambda done, total: None)
    options = CpuOptions(dtype="float32", kv_cache_dtype="auto", num_threads=1)
    programs = load_cpu(spec_of(checkpoint.config), folder / "packed", limits(length=128), options)
    rows = [run_logits(programs, (0, IDS[:50], 0)), run_logits(programs, (0, IDS[50:], 50))]
    return np.concatenate(rows)


def of_checkpoint(folder: Path, case: GgufCase) -> FloatArray:
    (folder / "config.json").write_text(json.dumps(case.config()), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", case.weights())
    return logits(folder, SafetensorsCheckpoint(folder))


@pytest.mark.parametrize("name", GGUF_CASES)
def test_logits_are_those_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    case = GGUF_CASES[name]
    if case.changes:
        wanted = of_checkpoint(tmp_path, case)
    else:
        wanted = reference(case.case).logits[[49, 63]]
    found = logits(tmp_path, GgufCheckpoint(write_family_gguf(tmp_path / "model.gguf", case)))

    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["granite", "qwen3", "gemma3", "phi3", "falcon_groups", "gpt2"])
def test_a_quantized_file_stays_near_the_checkpoint(tmp_path: Path, name: str) -> None:
    case = GGUF_CASES[name]
    plain, rounded = (
        logits(tmp_path, GgufCheckpoint(write_family_gguf(tmp_path / f"{kind}.gguf", case, kind)), "auto")[-1]
        for kind in ("F32", "Q8_0")
    )

    assert rounded @ plain / np.linalg.norm(rounded) / np.linalg.norm(plain) > 0.995
