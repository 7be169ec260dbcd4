"""Programs that are made to go wrong, and the step that finds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from quick_jax import jax
from ranvier.core import SamplingRow, StepPlan, StepResult, TokenChoice
from ranvier.models import SafetensorsCheckpoint, WeightPlan, write_weights
from ranvier.selfcheck.model import VOCAB, write_tiny_model
from ranvier.selfcheck.outcome import Notes, SkippedStep
from ranvier.selfcheck.questions import ask_all
from ranvier.selfcheck.reference import NUM_SLOTS, Answers, check_reference, greedy_questions, load_openvino, load_xla
from ranvier.selfcheck.sampling import check_sampling, sampled_questions
from ranvier.selfcheck.slots import check_slots
from ranvier.targets.neuron import NeuronPrograms

Change = Callable[[StepPlan, StepResult], StepResult]


@dataclass(frozen=True)
class Tiny:
    """The tiny model on JAX, and what the references answer."""

    programs: NeuronPrograms
    answers: Answers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("sabotage")
    write_tiny_model(folder / "checkpoint")
    plan = WeightPlan(quantize="none", dtype="float32")
    write_weights(SafetensorsCheckpoint(folder / "checkpoint"), plan, folder / "packed", lambda done, total: None)
    programs, reference = load_xla(folder / "packed"), load_openvino(folder / "packed")
    assert isinstance(programs, NeuronPrograms)
    greedy = ask_all(reference, greedy_questions(), NUM_SLOTS)
    return Tiny(programs, Answers(greedy=greedy, sampled=ask_all(reference, sampled_questions(), NUM_SLOTS)))


@pytest.fixture
def sabotaged(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], NeuronPrograms]:
    """The programs, each of whose results is changed."""

    def by(change: Change) -> NeuronPrograms:
        run = tiny.programs.run
        monkeypatch.setattr(NeuronPrograms, "run", lambda self, plan: change(plan, run(plan)))
        return tiny.programs

    return by


def complaints(check: Callable[[Notes], None]) -> list[str]:
    notes = Notes()
    check(notes)
    found = [line.removeprefix("WRONG: ") for line in notes.lines if line.startswith("WRONG: ")]
    assert notes.has_failed == bool(found)
    return found


def with_choices(result: StepResult, change: Callable[[TokenChoice], TokenChoice | None]) -> StepResult:
    return replace(result, choices=tuple(each and change(each) for each in result.choices))


def is_decode(plan: StepPlan) -> bool:
    return any(chunk.start > 0 and len(chunk.token_ids) == 1 for chunk in plan.chunks)


def spoil(programs: NeuronPrograms, slot: int, position: int) -> None:
    """Change one value of a slot's row, as a program that writes beside its rows would."""
    (keys, values), *others = programs._held["caches"]
    programs._held["caches"] = ((keys.at[slot, 0, position, 3].add(0.5), values), *others)


def test_nothing_is_wrong_with_programs_that_are_left_alone(tiny: Tiny) -> None:
    assert complaints(lambda notes: check_reference(tiny.programs, tiny.answers, "fp32", notes)) == []
    assert complaints(lambda notes: check_slots(tiny.programs, notes)) == []
    assert complaints(lambda notes: check_sampling(tiny.programs, tiny.answers, "fp32", notes)) == []


def test_a_decode_that_writes_a_row_of_another_slot_is_found(tiny: Tiny, sabotaged: Any) -> None:
    def change(plan: StepPlan, result: StepResult) -> StepResult:
        if is_decode(plan) and len(plan.chunks) < NUM_SLOTS:
            spoil(tiny.programs, (plan.chunks[-1].slot + 1) % NUM_SLOTS, 5)
        return result

    found = complaints(lambda notes: check_slots(sabotaged(change), notes))
    assert any("rows of slots that stand still were changed by decodes of {0}, {1}" in line for line in found)


def test_a_decode_that_confuses_slots_is_found(sabotaged: Any) -> None:
    def change(plan: StepPlan, result: StepResult) -> StepResult:
        return replace(result, choices=tuple(reversed(result.choices))) if is_decode(plan) else result

    found = complaints(lambda notes: check_slots(sabotaged(change), notes))
    assert len(found) == 1 and "other tokens than alone when these slots run ahead" in found[0]


def test_a_prompt_that_writes_its_padding_is_found(tiny: Tiny, sabotaged: Any) -> None:
    def change(plan: StepPlan, result: StepResult) -> StepResult:
        if plan.chunks and plan.chunks[0].start == 0:
            spoil(tiny.programs, plan.chunks[0].slot, len(plan.chunks[0].token_ids) + 20)
        return result

    found = complaints(lambda notes: check_slots(sabotaged(change), notes))
    assert "a prompt wrote other rows than those of its tokens" in found


def test_a_shared_prefix_that_is_no_copy_is_found(tiny: Tiny, sabotaged: Any) -> None:
    def change(plan: StepPlan, result: StepResult) -> StepResult:
        if plan.shares:
            spoil(tiny.programs, plan.shares[0].target, 7)
        return result

    assert complaints(lambda notes: check_slots(sabotaged(change), notes)) == [
        "a shared prefix is not a copy of those rows alone"
    ]


def test_a_cache_that_is_copied_by_each_step_is_found(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    run = NeuronPrograms.run

    def copying(self: NeuronPrograms, plan: StepPlan) -> StepResult:
        self._held["caches"] = jax.tree.map(jax.numpy.copy, self._held["caches"])
        return run(self, plan)

    monkeypatch.setattr(NeuronPrograms, "run", copying)
    found = complaints(lambda notes: check_slots(tiny.programs, notes))
    assert len(found) == 2
    assert found[0] == "4 of 4 arrays of the KV cache were not given away: a step needs twice the memory"
    assert found[1].endswith("of 4 parts of the KV cache moved: they are copied, not updated in place")


def test_another_token_than_the_reference_is_found_by_the_question_that_shows_it(tiny: Tiny, sabotaged: Any) -> None:
    def change(plan: StepPlan, result: StepResult) -> StepResult:
        # Chunks behind others alone: a fault of one kind of program.
        if is_decode(plan) or plan.chunks[0].start == 0:
            return result
        return with_choices(result, lambda each: replace(each, token_id=(each.token_id + 1) % VOCAB))

    assert complaints(lambda notes: check_reference(sabotaged(change), tiny.answers, "fp32", notes)) == [
        "1 tokens of `chunks` are not the reference's",
        "1 tokens of `chunk whose bucket reaches beyond the cache` are not the reference's",
    ]


def test_a_token_that_could_not_be_chosen_is_found(tiny: Tiny, sabotaged: Any) -> None:
    programs = sabotaged(lambda plan, result: with_choices(result, lambda each: None))
    for cast_type in ("fp32", "bf16"):
        found = complaints(lambda notes, name=cast_type: check_reference(programs, tiny.answers, name, notes))
        assert "12 tokens of `prefill, short` are not the reference's" in found


@pytest.mark.parametrize(("error", "cast_type", "is_found"), [(1e-2, "fp32", True), (1e-2, "bf16", False)])
def test_float32_has_to_be_closer_than_bfloat16(
    tiny: Tiny, sabotaged: Any, error: float, cast_type: str, is_found: bool
) -> None:
    programs = sabotaged(
        lambda plan, result: with_choices(result, lambda each: replace(each, logprob=each.logprob + error))
    )
    found = complaints(lambda notes: check_reference(programs, tiny.answers, cast_type, notes))
    assert bool(found) == is_found


def test_prompt_scores_that_are_not_numbers_are_found(tiny: Tiny, sabotaged: Any) -> None:
    programs = sabotaged(
        lambda plan, result: replace(result, scores=tuple((float("nan"),) * len(each) for each in result.scores))
    )
    assert complaints(lambda notes: check_reference(programs, tiny.answers, "bf16", notes)) == [
        "log-probabilities of `scored prompt` are off by more than 0.25"
    ]


@pytest.mark.parametrize(
    "ignored", [{"seed": 0}, {"top_k": 0}, {"typical_p": 1.0}, {"frequency_penalty": 0.0}, {"repetition_penalty": 1.0}]
)
def test_a_parameter_that_the_device_ignores_is_found(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, ignored: dict[str, Any]
) -> None:
    found = sampling_complaints(tiny, monkeypatch, lambda row: replace(row, params=replace(row.params, **ignored)))
    assert any("sampler" in line or "log-probabilities are off" in line for line in found)


def test_a_mask_that_the_device_ignores_is_found(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sampling_complaints(tiny, monkeypatch, lambda row: replace(row, allowed=None))
    assert "the device does not choose as the host's sampler" in found


def sampling_complaints(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, change: Callable[[SamplingRow], SamplingRow]
) -> list[str]:
    run = NeuronPrograms.run

    def changed(self: NeuronPrograms, plan: StepPlan) -> StepResult:
        return run(self, replace(plan, rows=tuple(change(row) for row in plan.rows)))

    with monkeypatch.context() as patch:
        patch.setattr(NeuronPrograms, "run", changed)
        return complaints(lambda notes: check_sampling(tiny.programs, tiny.answers, "fp32", notes))


def test_draws_that_depend_on_the_company_are_found(tiny: Tiny, sabotaged: Any) -> None:
    def change(plan: StepPlan, result: StepResult) -> StepResult:
        if len(plan.chunks) > 1:
            return result
        return with_choices(result, lambda each: replace(each, token_id=(each.token_id + 1) % VOCAB))

    found = complaints(lambda notes: check_sampling(sabotaged(change), tiny.answers, "fp32", notes))
    assert "a request's tokens depend on its company" in found


@pytest.mark.parametrize(("cast_type", "sampled"), [("bf16", True), ("fp32", False)])
def test_sampling_is_skipped_where_there_is_nothing_to_compare_with(tiny: Tiny, cast_type: str, sampled: bool) -> None:
    answers = tiny.answers if sampled else replace(tiny.answers, sampled=None)
    with pytest.raises(SkippedStep):
        check_sampling(tiny.programs, answers, cast_type, Notes())
