"""Every family computes in JAX what `transformers` computed: whole prompts, and token by token beside another slot.

References are in `tests/reference`. They cross the borders of the sliding windows and of the original contexts of
scaled rotary embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from neuron_helpers import FloatArray, few_buckets, jax, limits, pack

from ranvier.models import PackedWeights, spec_of, supported_families
from ranvier.targets.neuron import NeuronOptions, Shapes, shapes_of
from ranvier.targets.neuron.attention import DecodeAttention, PrefillAttention, SlotWindow
from ranvier.targets.neuron.programs import ProgramSet, zeros
from ranvier.targets.neuron.weights import load_weights
from tiny_families import CASES, IDS, NUM_GREEDY, NUM_PROMPT, VOCAB, config, reference

TOLERANCE = 2e-4
PROMPTS_ONLY = frozenset(
    """llama_linear llama_llama3 llama_yarn llama_biases mistral_full qwen2_yarn gemma3_text_types phi3_short
    phi3_partial gpt2_relu gpt_neox_sequential falcon_sequential falcon_groups falcon_one_norm""".split()
)
"""Variants of decoders that decode like another case of their family: tables, biases and widths differ."""
LENGTH = len(IDS)


def prefilled(shapes: Shapes, weights: Any, caches: Any, ids: Any, slot: Any, length: Any) -> Any:
    """Logits of every position of a prompt, and the caches."""
    order = jax.numpy.arange(LENGTH, dtype=np.int32)
    attention = PrefillAttention(slot_window=SlotWindow(slot=slot, start=np.int32(0), is_real_T=order < length))
    x, caches = shapes.decoder.hidden(weights, ids, order, caches, attention)
    return shapes.decoder.logits(weights, x), caches


def decoded(shapes: Shapes, weights: Any, caches: Any, ids: Any, positions: Any) -> Any:
    """Logits of one token for each slot, and the caches."""
    attention = DecodeAttention(positions_S=positions, bucket=LENGTH)
    x, caches = shapes.decoder.hidden(weights, ids, positions, caches, attention)
    return shapes.decoder.logits(weights, x), caches


def test_every_family_has_a_reference() -> None:
    assert {config(case)["model_type"] for case in CASES} == set(supported_families())


@dataclass(slots=True)
class Running:
    """A tiny decoder with two slots."""

    shapes: Shapes
    weights: Any
    caches: Any

    def prefill(self, slot: int, ids: list[int], jitted: Any) -> FloatArray:
        """Logits `[64, V]` of a prompt, right-padded."""
        padded = np.array(ids + [0] * (LENGTH - len(ids)), np.int32)
        logits, self.caches = jitted(self.weights, self.caches, padded, np.int32(slot), np.int32(len(ids)))
        return np.asarray(logits)[:, :VOCAB]

    def decode(self, ids: list[int], position: int, jitted: Any) -> FloatArray:
        """Logits of a token for each slot."""
        positions = np.array([position] * 2, np.int32)
        logits, self.caches = jitted(self.weights, self.caches, np.array(ids, np.int32), positions)
        return np.asarray(logits)[:, :VOCAB]


def running(folder: Path, case: str) -> Running:
    options = NeuronOptions(dtype="float32", buckets=few_buckets(LENGTH))
    shapes = shapes_of(spec_of(config(case)), limits(2, LENGTH), options, jax.devices())
    weights = load_weights(shapes, PackedWeights(pack(folder, case)))
    return Running(shapes, weights, zeros(ProgramSet(shapes).caches))


def assert_near(found: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_a_family_computes_the_reference(tmp_path: Path, case: str) -> None:
    model, expected = running(tmp_path, case), reference(case)
    prefill = jax.jit(partial(prefilled, model.shapes), donate_argnums=1)
    assert_near(model.prefill(0, IDS, prefill), expected.logits)
    prompt_logits = model.prefill(0, IDS[:NUM_PROMPT], prefill)[NUM_PROMPT - 1]
    assert_near(prompt_logits, expected.logits[NUM_PROMPT - 1])
    if case in PROMPTS_ONLY:
        return
    model.prefill(1, IDS[:NUM_PROMPT], prefill)
    decode = jax.jit(partial(decoded, model.shapes), donate_argnums=1)
    # Slot 0 is given the reference's tokens, slot 1 its own.
    greedy = [int(prompt_logits.argmax())]
    for position in range(NUM_PROMPT, LENGTH):
        row, own = model.decode([IDS[position], greedy[-1]], position, decode)
        assert_near(row, expected.logits[position])
        greedy.append(int(own.argmax()))
    assert greedy[:NUM_GREEDY] == expected.greedy
