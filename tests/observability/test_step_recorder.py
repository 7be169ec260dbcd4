"""From a step's figures to series."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_text import Family, parse

from ranvier.compose.step_recorder import StepRecorder
from ranvier.core import EngineRequest, Limits, SamplingParams, StepStats
from ranvier.engine import Engine
from ranvier.observability import ServerMetrics
from ranvier.targets.scripted import NO_FAULT, ScriptedPrograms

LIMITS = Limits(batch_size=4, sequence_length=64, max_input_tokens=32, max_batch_prefill_tokens=64)
DECODE = StepStats(
    duration_s=0.010,
    num_prefill_tokens=0,
    num_decode_tokens=3,
    num_slots_used=3,
    num_waiting=0,
    num_started=0,
    plan_s=0.001,
    forward_s=0.006,
    choose_s=0.002,
    num_running=3,
    num_chosen=3,
)
IDLE = replace(DECODE, duration_s=0.0, num_decode_tokens=0, num_slots_used=0, num_chosen=0)


def after(*steps: StepStats) -> dict[str, Family]:
    metrics = ServerMetrics(max_input_tokens=32, max_total_tokens=64)
    record = StepRecorder(metrics, LIMITS)
    for stats in steps:
        record(stats)
    return parse(metrics.render())


def test_the_parts_of_a_step_add_up_to_its_duration() -> None:
    families = after(DECODE)
    parts = {"inference": 0.010, "forward": 0.006, "decode": 0.002, "filter": 0.001}
    for name, seconds in parts.items():
        family = families[f"tgi_batch_{name}_duration"]
        assert family.value("_sum", method="decode") == pytest.approx(seconds)
        assert family.value("_count", method="decode") == 1


def test_a_failed_step_counts_but_has_no_durations() -> None:
    families = after(replace(DECODE, num_prefill_tokens=4, is_failed=True, num_chosen=0))
    assert families["tgi_batch_inference_count"].value(method="prefill") == 1
    assert families["tgi_batch_inference_failure"].value(method="prefill") == 1
    absent = {"tgi_batch_inference_success", "tgi_batch_inference_duration", "tgi_batch_forward_duration"}
    assert not absent & families.keys()


@pytest.mark.parametrize(
    ("num_running", "num_decode_tokens", "reasons"),
    [(0, 0, set()), (0, 1, set()), (3, 3, {"chunking"}), (3, 0, {"wait_exceeded"})],
)
def test_requests_that_join_others_are_a_concatenation(
    num_running: int, num_decode_tokens: int, reasons: set[str]
) -> None:
    """Beside the decodes, or in a step of their own for which the decodes pause."""
    joining = replace(
        DECODE,
        num_prefill_tokens=6,
        num_decode_tokens=num_decode_tokens,
        num_started=1,
        num_running=num_running,
        num_chosen=num_decode_tokens + 1,
    )
    families = after(joining)
    assert families["tgi_batch_next_size"].value("_count") == 1
    found = families.get("tgi_batch_concat")
    assert (found.label_values("reason") if found else set()) == reasons
    durations = families.get("tgi_batch_concat_duration")
    assert (durations.value("_sum", method="decode") if durations else None) == (0.001 if reasons else None)


def test_each_chosen_token_is_one_without_skipped_ones() -> None:
    family = after(DECODE, DECODE, IDLE)["tgi_request_skipped_tokens"]
    assert (family.kind, family.value("_count"), family.value("_sum")) == ("summary", 6, 0)
    assert family.quantiles() == dict.fromkeys(("0", "0.5", "0.9", "0.95", "0.99", "0.999", "1"), 0)


def test_tokens_are_counted_by_phase_and_padding_apart() -> None:
    families = after(DECODE, replace(DECODE, num_prefill_tokens=5, num_padded_tokens=2))
    assert families["ranvier_computed_tokens"].value(phase="prefill") == 5
    assert families["ranvier_computed_tokens"].value(phase="decode") == 6
    assert families["ranvier_padded_tokens"].value() == 2


def test_slots_are_shown_with_their_number() -> None:
    families = after(DECODE)
    assert (families["ranvier_slots"].value(), families["ranvier_slots_used"].value()) == (4, 3)


def test_what_a_cancel_has_changed_is_no_step() -> None:
    families = after(IDLE)
    assert set(families) == {
        "tgi_queue_size",
        "tgi_batch_current_size",
        "tgi_batch_current_max_tokens",
        "ranvier_slots",
        "ranvier_slots_used",
    }


def steps_of(*prompts: tuple[int, ...], fault_token: int = NO_FAULT) -> list[StepStats]:
    """The figures of an engine's steps; the second prompt comes after the first step."""
    programs = ScriptedPrograms(num_slots=4, sequence_length=64, vocab_size=264, fault_token=fault_token)
    engine = Engine(programs, LIMITS)
    found = []
    for index, prompt in enumerate(prompts):
        request = EngineRequest(
            request_id=str(index),
            prompt_ids=prompt,
            max_new_tokens=3,
            eos_token_ids=frozenset(),
            sampling=SamplingParams(),
        )
        engine.submit(request)
        found.append(engine.step().stats)
    while engine.has_work:
        found.append(engine.step().stats)
    return found


def test_an_engine_tells_who_was_running_and_what_was_chosen() -> None:
    steps = steps_of((1, 2, 3), (4, 5, 6))
    assert [(each.num_started, each.num_running, each.num_chosen) for each in steps] == [
        (1, 0, 1),
        (1, 1, 2),
        (0, 2, 2),
        (0, 1, 1),
    ]


def test_an_engines_parts_lie_within_its_steps() -> None:
    for stats in steps_of((1, 2, 3)):
        assert stats.began_s > 0
        assert min(stats.plan_s, stats.forward_s, stats.commit_s) > 0
        assert stats.plan_s + stats.forward_s + stats.choose_s + stats.commit_s == pytest.approx(stats.duration_s)


def test_an_engine_tells_of_a_step_that_failed() -> None:
    (stats,) = steps_of((1, 9, 3), fault_token=9)
    assert (stats.is_failed, stats.num_chosen, stats.is_step) == (True, 0, True)
