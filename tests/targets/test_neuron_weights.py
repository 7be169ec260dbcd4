"""Types and packed forms of weights on the Neuron target, and what a step costs the host."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neuron_helpers import FloatArray, few_buckets, jax, limits, pack

from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan
from ranvier.errors import ModelError
from ranvier.models import DecoderSpec, PackedWeights, SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.models.packing import DType, Quantize
from ranvier.targets.neuron import NeuronOptions, NeuronPrograms, Shapes, shapes_of
from ranvier.targets.neuron.programs import ProgramSet, zeros
from ranvier.targets.neuron.sampling import Choices
from ranvier.targets.neuron.shapes import ComputeType
from ranvier.targets.neuron.weights import load_weights
from tiny_families import IDS, VOCAB, config, reference


def shapes(dtype: ComputeType, case: str = "llama") -> Shapes:
    options = NeuronOptions(dtype=dtype, buckets=few_buckets())
    return shapes_of(spec_of(config(case)), limits(), options, jax.devices())


def last_logits(its: Shapes, weights: Any) -> FloatArray:
    """After the first 32 tokens."""
    programs = ProgramSet(its)
    place = np.array([0, 0, 0, 32], np.int32)
    _, (hidden, _) = programs.named("prefill_32").function(
        weights, zeros(programs.caches), np.array(IDS[:32], np.int32), place
    )
    return np.asarray(its.decoder.logits(weights, hidden))[0, :VOCAB]


@pytest.mark.parametrize(
    ("compute", "packed", "quantize"),
    [
        ("bfloat16", "bfloat16", "none"),
        ("float16", "float32", "none"),
        ("bfloat16", "float32", "int8"),
        ("float32", "bfloat16", "int4"),
    ],
)
def test_every_type_and_packed_form_stays_near_the_reference(
    tmp_path: Path, compute: ComputeType, packed: DType, quantize: Quantize
) -> None:
    pack(tmp_path, "llama")
    plan = WeightPlan(quantize=quantize, dtype=packed)
    write_weights(SafetensorsCheckpoint(tmp_path), plan, tmp_path / "other", lambda done, total: None)
    weights = load_weights(shapes(compute), PackedWeights(tmp_path / "other"))
    assert {str(each.dtype) for name, each in weights.items() if name.endswith(".q")} == {compute}
    found, expected = last_logits(shapes(compute), weights), reference("llama").logits[31]
    bound = 0.95 if quantize == "int4" else 0.999
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) > bound


def test_weights_have_the_shapes_that_the_programs_are_traced_with(tmp_path: Path) -> None:
    for case in ("gpt2", "gemma3_text", "olmo2"):
        its = shapes("float32", case)
        (tmp_path / case).mkdir()
        weights = load_weights(its, PackedWeights(pack(tmp_path / case, case)))
        expected = {name: (held.shape, held.dtype) for name, held in its.weights().items()}
        assert {name: (held.shape, held.dtype) for name, held in weights.items()} == expected


def test_a_file_of_another_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        load_weights(shapes("float32", "gpt2"), PackedWeights(pack(tmp_path, "llama")))


class Answer:
    """Stands where a jitted function does and gives what is ready."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def __call__(self, *arguments: Any) -> Any:
        return self._given


def without_device(num_slots: int, vocab_size: int) -> NeuronPrograms:
    """Programs whose device calls are over at once, so that what is left is the host's work."""
    spec: DecoderSpec = replace(spec_of(config("llama")), vocab_size=vocab_size)
    its = shapes_of(spec, limits(num_slots), NeuronOptions(dtype="float32", buckets=few_buckets()), jax.devices())
    programs = NeuronPrograms(its, zeros(its.weights()))
    made, held = programs._programs, programs._held
    choices = Choices(np.zeros((num_slots, 9), np.int32), np.zeros((num_slots, 9), np.float32))
    answers = {
        "decode_96": (held["caches"], zeros(made.named("choose_greedy").inputs[0])),
        "choose": (held["counts"], choices),
        "choose_masked": (held["counts"], choices),
        "choose_greedy": choices,
    }
    for name, answer in answers.items():
        made._made[name] = replace(made.named(name), function=Answer(answer))
    return programs


@pytest.mark.parametrize("allowed", [None, bytes(128_256 // 8)])
def test_a_step_of_32_slots_with_every_parameter_takes_the_host_less_than_a_millisecond(allowed: bytes | None) -> None:
    programs = without_device(32, 128_256)
    params = SamplingParams(
        do_sample=True,
        temperature=0.7,
        top_k=40,
        top_p=0.9,
        typical_p=0.9,
        seed=3,
        top_n_tokens=5,
        presence_penalty=0.1,
    )
    history = list(range(90))
    took = []
    for number in range(1, 40):
        row = SamplingRow(params, number, history, allowed)
        plan = StepPlan(tuple(Chunk(slot, [5], 89, True) for slot in range(32)), (), (row,) * 32)
        if number == 1:
            # Later steps find the counts of the one before.
            for slot in range(32):
                programs._notes.note_counts(slot, replace(row, token_index=0))
        # Time of this thread alone: others may be busy.
        began = time.thread_time()
        programs.run(plan)
        took.append(time.thread_time() - began)
    assert statistics.median(took) < 1e-3
