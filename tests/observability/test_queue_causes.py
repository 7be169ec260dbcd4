"""What is said about why requests waited."""

from __future__ import annotations

import pytest
from prometheus_text import parse

from ranvier.core import EngineRequest, Limits, SamplingParams, StartEvent
from ranvier.engine import Engine
from ranvier.observability import ServerMetrics
from ranvier.observability.queue_causes import QueueCauses
from ranvier.observability.series import DURATION_BUCKETS, Histogram
from ranvier.targets.scripted import ScriptedPrograms


def causes() -> QueueCauses:
    return QueueCauses(Histogram("q", "Help.", DURATION_BUCKETS))


@pytest.mark.parametrize(
    ("slots_s", "prefill_s", "cause"),
    [
        (None, None, "step"),
        (9.0, None, "step"),
        (None, 9.0, "step"),
        (11.0, None, "slots"),
        (None, 11.0, "prefill"),
        (11.0, 12.0, "slots"),
        (9.0, 12.0, "prefill"),
        (10.0, None, "slots"),
    ],
)
def test_the_cause_is_the_strongest_of_the_plans_since_the_request_came(
    slots_s: float | None, prefill_s: float | None, cause: str
) -> None:
    """It came at 10. A plan made before cannot have left it waiting."""
    judge = causes()
    if slots_s is not None:
        judge.left_waiting("slots", slots_s)
    if prefill_s is not None:
        judge.left_waiting("prefill", prefill_s)
    assert judge.cause_since(10.0) == cause


def test_the_whole_wait_is_counted_under_its_cause() -> None:
    metrics = ServerMetrics(max_input_tokens=32, max_total_tokens=64)
    metrics.request_started(10.0, 10.5)
    metrics.queue_causes.left_waiting("slots", 11.0)
    metrics.request_started(10.0, 12.0)
    # Moments of two processes may be off by microseconds.
    metrics.request_started(12.0, 11.9)
    family = parse(metrics.render())["ranvier_queue_duration"]
    assert (family.value("_sum", cause="step"), family.value("_count", cause="step")) == (0.5, 2)
    assert (family.value("_sum", cause="slots"), family.value("_count", cause="slots")) == (2.0, 1)
    assert family.label_values("cause") == {"step", "slots"}


def waits(batch_size: int, prefill_tokens: int, *prompt_lengths: int) -> list[str]:
    """The causes of requests that come together, in their order, with an engine of this size."""
    limits = Limits(
        batch_size=batch_size, sequence_length=64, max_input_tokens=32, max_batch_prefill_tokens=prefill_tokens
    )
    engine = Engine(ScriptedPrograms(num_slots=batch_size, sequence_length=64, vocab_size=264), limits)
    for index, length in enumerate(prompt_lengths):
        request = EngineRequest(
            request_id=str(index),
            prompt_ids=(7,) * length,
            max_new_tokens=2,
            eos_token_ids=frozenset(),
            sampling=SamplingParams(),
        )
        engine.submit(request)
    judge, found = causes(), {}
    while engine.has_work:
        outcome = engine.step()
        for event in outcome.events:
            if isinstance(event, StartEvent):
                # Before the figures of its step, as a client hands them out.
                found[event.request_id] = judge.started(0.0, event.at_s)
        if outcome.stats.waiting_for:
            judge.left_waiting(outcome.stats.waiting_for, outcome.stats.began_s)
    return [found[str(index)] for index in range(len(prompt_lengths))]


def test_with_room_for_all_nobody_waits_for_more_than_the_step() -> None:
    assert waits(4, 64, 5, 5, 5) == ["step", "step", "step"]


def test_without_a_free_slot_requests_wait_for_slots() -> None:
    assert waits(1, 64, 5, 5) == ["step", "slots"]


def test_with_free_slots_but_long_prompts_requests_wait_for_prefill() -> None:
    assert waits(4, 32, 30, 30, 30) == ["step", "prefill", "prefill"]


def test_who_waited_for_both_waited_for_a_slot() -> None:
    assert waits(2, 32, 30, 30, 30) == ["step", "prefill", "slots"]
