"""Loaded Neuron programs for the tiny checkpoints, and what their tests share. Needs JAX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quick_jax import jax
from ranvier.core import Chunk, Limits, SamplingParams, SamplingRow, StepPlan, StepResult
from ranvier.models import SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.targets.neuron import Buckets, NeuronOptions, NeuronPrograms, load_neuron
from tiny_checkpoints import write_safetensors
from tiny_families import config, weights

FloatArray = npt.NDArray[np.float32]
GREEDY = SamplingParams()


def limits(num_slots: int = 4, length: int = 96, budget: int = 256) -> Limits:
    return Limits(
        batch_size=num_slots, sequence_length=length, max_input_tokens=length - 1, max_batch_prefill_tokens=budget
    )


def few_buckets(length: int = 96) -> Buckets:
    """One of each kind: few programs to compile. Prompts over 32 tokens go in pieces."""
    return Buckets(prefill=(32,), chunk=(32,), decode=(length,), score=32)


def pack(folder: Path, case: str) -> Path:
    """The packed float32 weights of a tiny model."""
    (folder / "config.json").write_text(json.dumps(config(case)), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", weights(case))
    plan = WeightPlan(quantize="none", dtype="float32")
    write_weights(SafetensorsCheckpoint(folder), plan, folder / "packed", lambda done, total: None)
    return folder / "packed"


def load(
    folder: Path, case: str, *, buckets: Buckets | None = None, num_top: int = 2, served: Limits | None = None
) -> NeuronPrograms:
    served = served or limits()
    options = NeuronOptions(
        dtype="float32", num_top=num_top, buckets=buckets or few_buckets(-(-served.sequence_length // 32) * 32)
    )
    return load_neuron(spec_of(config(case)), pack(folder, case), served, options)


def prompt(
    programs: NeuronPrograms, slot: int, ids: list[int], params: SamplingParams = GREEDY, start: int = 0
) -> StepResult:
    """Put ids through from position `start` on; choose a token behind them."""
    return programs.run(StepPlan((Chunk(slot, ids, start, True),), (), (SamplingRow(params, 0, ids),)))


def decode(programs: NeuronPrograms, histories: dict[int, list[int]], num_prompt: int) -> dict[int, int]:
    """A greedy token for each slot, given everything that it has seen and the last token."""
    chunks = tuple(Chunk(slot, ids[-1:], len(ids) - 1, True) for slot, ids in histories.items())
    rows = tuple(SamplingRow(GREEDY, len(ids) - num_prompt, ids) for ids in histories.values())
    choices = programs.run(StepPlan(chunks, (), rows)).choices
    return {slot: choice.token_id for slot, choice in zip(histories, choices, strict=True) if choice is not None}


__all__ = ["GREEDY", "decode", "few_buckets", "jax", "limits", "load", "pack", "prompt"]
