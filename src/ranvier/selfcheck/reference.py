"""What the tiny model answers on this machine's processor, by XLA and by OpenVINO, and whether the devices agree.

XLA runs the same decoder as the devices, in float32 and on one processor; OpenVINO runs another lowering of the same
model, with the host's sampler behind it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ranvier.core import Limits, SamplingParams
from ranvier.models import spec_of
from ranvier.selfcheck.model import CONFIG, VOCAB
from ranvier.selfcheck.orders import CheckOrder
from ranvier.selfcheck.outcome import Notes
from ranvier.selfcheck.questions import Answer, Question, ask_all, distance

if TYPE_CHECKING:
    from ranvier.targets import Programs
    from ranvier.targets.neuron import NeuronOptions

NUM_SLOTS = 4
LENGTH = 256
"""Tokens of a slot: two buckets for prompts and two for decodes, 128 and 256."""
NUM_TOP = 4

FLOAT32_TOLERANCE = 2e-3
"""Of a log-probability: float32 sums in another order are off by 1e-5 here; a product cast to bfloat16, by 1e-2."""
HALF_TOLERANCE = 0.25
"""The same for bfloat16 and float16: XLA on a processor is off by 0.05, with other sums as they may be."""
HALF_OTHER = 0.05
"""Part of the tokens that may be others than float32's, beside those that are close."""

WEIGHTS, ANSWERS = "packed.safetensors", "answers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Of each question by name. `sampled` is None where OpenVINO is not installed."""

    greedy: dict[str, Answer]
    sampled: dict[str, Answer] | None


def limits() -> Limits:
    """The tiny artifact's."""
    return Limits(
        batch_size=NUM_SLOTS, sequence_length=LENGTH, max_input_tokens=LENGTH - 1, max_batch_prefill_tokens=LENGTH
    )


def prompt(number: int, length: int) -> tuple[int, ...]:
    """Token ids, the same in every process."""
    random = np.random.default_rng(1000 + number)
    return tuple(int(token) for token in random.integers(2, VOCAB, length))


def greedy_questions() -> list[Question]:
    """Prompts for each bucket, short and full; in chunks; decodes across the border of a bucket; scored prompts."""
    likely = SamplingParams(top_n_tokens=NUM_TOP)
    shapes: list[tuple[str, int, tuple[int, ...], int, bool]] = [
        ("prefill, short", 9, (), 12, False),
        ("prefill, smaller bucket full", 128, (), 4, False),
        ("prefill, larger bucket", 129, (), 4, False),
        ("prefill, larger bucket almost full", 250, (), 5, False),
        ("chunks", 150, (32, 128), 4, False),
        ("chunk whose bucket reaches beyond the cache", 240, (192,), 4, False),
        ("decode across a bucket's border", 124, (), 10, False),
        ("scored prompt", 140, (), 2, True),
    ]
    return [
        Question(
            name=name, prompt=prompt(index, length), cuts=cuts, num_tokens=count, params=likely, is_scored=is_scored
        )
        for index, (name, length, cuts, count, is_scored) in enumerate(shapes)
    ]


def write_answers(order: CheckOrder, notes: Notes) -> None:
    """Answer all questions and write the answers into the order's folder."""
    from ranvier.selfcheck.sampling import sampled_questions

    folder = Path(order.folder)
    questions = greedy_questions()
    greedy = ask_all(load_xla(folder / WEIGHTS), questions, NUM_SLOTS)
    notes.say(f"XLA on this machine's processor, float32: {_count(greedy)} greedy tokens")
    sampled = None
    if importlib.util.find_spec("openvino") is None:
        notes.say("OpenVINO is not installed: nothing is compared with it, or with the host's sampler")
    else:
        programs = load_openvino(folder / WEIGHTS)
        found = distance(ask_all(programs, questions, NUM_SLOTS, greedy), greedy, FLOAT32_TOLERANCE)
        notes.say(
            f"OpenVINO, float32: {found.num_other} of {found.num_tokens} tokens are others than XLA's, "
            f"log-probabilities within {found.largest:.1e}"
        )
        notes.expect(found.num_other == 0 and found.largest <= FLOAT32_TOLERANCE, "the two references do not agree")
        sampled = ask_all(programs, sampled_questions(), NUM_SLOTS)
        notes.say(f"OpenVINO and the host's sampler: {_count(sampled)} drawn, penalized and masked tokens")
        programs.release()
    (folder / ANSWERS).write_bytes(msgspec.json.encode(Answers(greedy=greedy, sampled=sampled)))


def read_answers(folder: Path) -> Answers:
    """What `write_answers` wrote."""
    return msgspec.json.decode((folder / ANSWERS).read_bytes(), type=Answers)


def _count(answers: dict[str, Answer]) -> int:
    return sum(len(answer.tokens) for answer in answers.values())


def load_xla(weights: Path, options: NeuronOptions | None = None) -> Programs:
    """The tiny model on JAX's default platform, from packed weights; float32 on one device unless told otherwise."""
    from ranvier.targets.neuron import NeuronOptions as Options
    from ranvier.targets.neuron import load_neuron

    return load_neuron(spec_of(CONFIG), weights, limits(), options or Options(dtype="float32"))


def load_openvino(weights: Path) -> Programs:
    """The tiny model on the CPU target, in float32."""
    from ranvier.targets.cpu import CpuOptions, load_cpu

    options = CpuOptions(dtype="float32", kv_cache_dtype="float32", num_threads=0)
    return load_cpu(spec_of(CONFIG), weights, limits(), options)


def check_reference(programs: Programs, answers: Answers, cast_type: str, notes: Notes) -> None:
    """Ask the devices the greedy questions. In float32 the tokens have to be the same."""
    for question in greedy_questions():
        reference = {question.name: answers.greedy[question.name]}
        _compare(programs, [question], reference, cast_type, notes)


def check_bf16(programs: Programs, answers: Answers, notes: Notes) -> None:
    """Ask programs that compute in bfloat16: close is enough."""
    questions = bf16_questions()
    _compare(programs, questions, {each.name: answers.greedy[each.name] for each in questions}, "bf16", notes)


def bf16_questions() -> list[Question]:
    """Of the greedy ones, those that need the fewest programs."""
    return [each for each in greedy_questions() if len(each.prompt) <= 128 and not each.is_scored]


def _compare(
    programs: Programs, questions: list[Question], reference: dict[str, Answer], cast_type: str, notes: Notes
) -> None:
    is_exact = cast_type == "fp32"
    tolerance = FLOAT32_TOLERANCE if is_exact else HALF_TOLERANCE
    found = distance(ask_all(programs, questions, NUM_SLOTS, reference), reference, tolerance)
    name = questions[0].name if len(questions) == 1 else f"{len(questions)} questions in {cast_type}"
    close = f", {found.num_close} where two are as likely" if found.num_close else ""
    notes.say(
        f"{name}: {found.num_tokens - found.num_other - found.num_close} of {found.num_tokens} tokens{close}, "
        f"log-probabilities within {found.largest:.1e}"
    )
    allowed = 0 if is_exact else HALF_OTHER * found.num_tokens
    notes.expect(found.num_other <= allowed, f"{found.num_other} tokens of `{name}` are not the reference's")
    notes.expect(found.largest <= tolerance, f"log-probabilities of `{name}` are off by more than {tolerance:g}")
