"""CPU targets of tiny families with adapters loaded, and of the same weights merged by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cpu_helpers import FloatArray, RecordingSampler, limits

from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan
from ranvier.models import Adapter, SafetensorsCheckpoint, WeightPlan, load_adapter, spec_of, write_weights
from ranvier.models.packing import DType, Quantize
from ranvier.targets.cpu import CpuOptions, CpuPrograms, load_cpu
from tiny_adapters import TinyAdapter, merged, write_adapter
from tiny_checkpoints import write_safetensors
from tiny_families import config, weights


def load_weights(
    folder: Path,
    case: str,
    tensors: Mapping[str, FloatArray],
    adapters: Sequence[Adapter] = (),
    *,
    quantize: Quantize = "none",
    dtype: DType = "float32",
) -> CpuPrograms:
    """The case with these tensors; `dtype` is that of weights and activations."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(case)), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors)
    plan = WeightPlan(quantize=quantize, dtype=dtype)
    write_weights(SafetensorsCheckpoint(folder), plan, folder / "packed", lambda done, total: None)
    options = CpuOptions(dtype=dtype, kv_cache_dtype="auto", num_threads=1)
    return load_cpu(spec_of(config(case)), folder / "packed", limits(length=128), options, adapters)


def load_adapted(folder: Path, case: str, adapters: Mapping[str, TinyAdapter]) -> tuple[CpuPrograms, list[CpuPrograms]]:
    """The case with adapters in float32, and one target for each adapter with its weights merged by hand."""
    tensors = weights(case)
    shapes = {name: values.shape for name, values in tensors.items()}
    loaded, by_hand = [], []
    for name, adapter in adapters.items():
        added = write_adapter(folder / name, adapter, shapes)
        loaded.append(load_adapter(name, folder / name, config(case)))
        by_hand.append(load_weights(folder / f"{name}-merged", case, merged(tensors, added)))
    return load_weights(folder / "adapted", case, tensors, loaded), by_hand


def adapted_logits(programs: CpuPrograms, *chunks: tuple[int, list[int], int, int]) -> FloatArray:
    """Logits after the last token of each `(slot, ids, start, adapter)`."""
    recorder = RecordingSampler(programs)
    plain = programs._sampler
    programs._sampler = recorder  # type: ignore[assignment]  # it has the one method that is called
    try:
        rows = tuple(SamplingRow(SamplingParams(), 0, ids) for _, ids, _, _ in chunks)
        made = tuple(Chunk(slot, ids, start, True, adapter=adapter) for slot, ids, start, adapter in chunks)
        programs.run(StepPlan(made, (), rows))
    finally:
        programs._sampler = plain
    return recorder.logits
