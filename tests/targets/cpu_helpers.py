"""A loaded CPU target for a tiny checkpoint, and its raw logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranvier.core import Chunk, Limits, SamplingParams, SamplingRow, StepPlan
from ranvier.models import SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.models.packing import DType, Quantize
from ranvier.targets.cpu import CpuOptions, CpuPrograms, load_cpu
from tiny_checkpoints import TinyModel, write_checkpoint

FloatArray = npt.NDArray[np.float32]


class RecordingSampler:
    """Stands where the sampler does and keeps the logits that it is shown."""

    def __init__(self, programs: CpuPrograms) -> None:
        self._inner = programs._sampler
        self.logits: FloatArray = np.zeros((0, 0), np.float32)
        self.log_sums: FloatArray = np.zeros(0, np.float32)

    def choose(self, logits: FloatArray, log_sums: FloatArray, rows: tuple[SamplingRow, ...]) -> object:
        self.logits, self.log_sums = logits.copy(), log_sums.copy()
        return self._inner.choose(logits, log_sums, rows)


def limits(num_slots: int = 4, length: int = 256) -> Limits:
    return Limits(
        batch_size=num_slots, sequence_length=length, max_input_tokens=length - 1, max_batch_prefill_tokens=256
    )


def load_tiny(
    tmp_path: Path,
    model: TinyModel,
    *,
    dtype: DType = "float32",
    kv: str = "auto",
    quantize: Quantize = "none",
    num_slots: int = 4,
) -> CpuPrograms:
    write_checkpoint(tmp_path / "checkpoint", model)
    checkpoint = SafetensorsCheckpoint(tmp_path / "checkpoint")
    weights = tmp_path / f"{quantize}-{dtype}.safetensors"
    write_weights(checkpoint, WeightPlan(quantize=quantize, dtype=dtype), weights, lambda done, total: None)
    options = CpuOptions(dtype=dtype, kv_cache_dtype=kv, num_threads=1)
    return load_cpu(spec_of(checkpoint.config), weights, limits(num_slots), options)


def run_logits(programs: CpuPrograms, *chunks: tuple[int, list[int], int]) -> FloatArray:
    """Logits after the last token of each `(slot, ids, start)`."""
    recorder = RecordingSampler(programs)
    plain = programs._sampler
    programs._sampler = recorder  # type: ignore[assignment]  # the stand-in above
    try:
        rows = tuple(SamplingRow(SamplingParams(), 0, ids) for _, ids, _ in chunks)
        programs.run(StepPlan(tuple(Chunk(slot, ids, start, True) for slot, ids, start in chunks), (), rows))
    finally:
        programs._sampler = plain
    return recorder.logits
