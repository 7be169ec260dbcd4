"""Steps that fail, logits that are not finite, and who has to bear it.

Prompts and tokens are those of `test_engine`: [5, 6, 7] gives 55, 34, 49, 15. Token 13 is a fault: a step that holds
it raises. [12] would give 3 * 12 + 1 = 37; [4] gives 3 * 4 + 1 = 13, so its second step is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest
from engine_helpers import Faulty, NotFinite, events_of, generate, make_engine, make_limits, run_to_end, step, tokens_of

from ranvier.core import Event, FailEvent, SamplingRow, StartEvent
from ranvier.engine import DeviceLostError, Engine
from ranvier.engine.engine import MAX_FAILED_STEPS
from scripted_requests import make_request, scripted_tokens

FAULT = 13
P, P_TOKENS = [5, 6, 7], [55, 34, 49, 15]
STEP_FAILED = "the step that held this request failed on the device"
NOT_FINITE = "the model gave logits that are not finite"


def failed_ids(events: Iterable[Event]) -> list[str]:
    return [event.request_id for event in events if isinstance(event, FailEvent)]


# A step that fails


def test_a_failing_step_fails_the_request_it_holds() -> None:
    engine = make_engine(fault_token=FAULT)
    events = generate(engine, make_request("bad", [1, FAULT]))
    assert [type(event) for event in events] == [StartEvent, FailEvent]
    assert events[-1] == FailEvent("bad", STEP_FAILED)


def test_a_failing_step_fails_every_request_it_holds_and_no_other() -> None:
    engine = make_engine(limits=make_limits(batch_size=2), fault_token=FAULT)
    for request_id, prompt_ids in (("p", P), ("bad", [1, FAULT]), ("waiting", P)):
        engine.submit(make_request(request_id, prompt_ids, 4))
    events = step(engine)
    assert failed_ids(events) == ["p", "bad"]
    events += run_to_end(engine)
    assert failed_ids(events) == ["p", "bad"]
    assert tokens_of(events, "waiting") == P_TOKENS


def test_a_decoding_request_is_not_harmed_by_a_prefill_that_fails_without_it() -> None:
    engine = make_engine(mixed_steps=False, fault_token=FAULT)
    engine.submit(make_request("p", P, 4))
    events = step(engine)
    engine.submit(make_request("bad", [1, FAULT]))
    events += run_to_end(engine)
    assert failed_ids(events) == ["bad"]
    assert tokens_of(events, "p") == P_TOKENS


def test_a_step_may_fail_in_the_decode() -> None:
    engine = make_engine(fault_token=FAULT)
    events = generate(engine, make_request("r", [4]))
    assert tokens_of(events, "r") == [FAULT]
    assert events[-1] == FailEvent("r", STEP_FAILED)


def test_rows_of_a_failed_step_are_never_reused() -> None:
    engine = make_engine(wrap=partial(Faulty, bad_steps=[1]))
    prompt_ids = list(range(10))
    engine.submit(make_request("bad", prompt_ids, 4))
    assert failed_ids(step(engine) + step(engine)) == ["bad"]
    events = generate(engine, make_request("r", prompt_ids, 4))
    assert isinstance(events[0], StartEvent)
    assert events[0].num_reused_tokens == 0
    assert tokens_of(events, "r") == scripted_tokens(prompt_ids, 4)


def test_a_request_whose_prefix_was_to_be_shared_in_a_failed_step_fails_with_it() -> None:
    """It went on once, from rows that nobody had copied.

    With a budget of 8, `b` leaves 4: of the 9 tokens of `c` a cut at 4 would be right, but 4 come from the prefix and
    the 5 behind them cannot be cut at 4. So `c` has a slot and a share in the step that fails, but no chunk.
    """
    nine = list(range(20, 29))
    engine = make_engine(limits=make_limits(batch_size=3, budget=8), wrap=partial(Faulty, bad_steps=[2]))
    engine.submit(make_request("a", nine, 9))
    step(engine)
    step(engine)
    engine.submit(make_request("b", [1, 2, 3, 4]))
    engine.submit(make_request("c", nine, 2))
    assert sorted(failed_ids(step(engine))) == ["a", "b", "c"]
    assert tokens_of(generate(engine, make_request("d", nine, 2)), "d") == scripted_tokens(nine, 2)


def test_the_engine_goes_on_after_two_failed_steps_in_a_row() -> None:
    engine = make_engine(wrap=partial(Faulty, bad_steps=[0, 1]))
    assert failed_ids(generate(engine, make_request("a", P))) == ["a"]
    assert failed_ids(generate(engine, make_request("b", P))) == ["b"]
    assert tokens_of(generate(engine, make_request("c", P, 4)), "c") == P_TOKENS


def test_steps_that_keep_failing_mean_that_the_device_is_lost() -> None:
    engine = make_engine(wrap=partial(Faulty, bad_steps=range(100)))
    for number in range(MAX_FAILED_STEPS - 1):
        generate(engine, make_request(str(number), P))
    engine.submit(make_request("last", P))
    with pytest.raises(DeviceLostError, match=r"^3 steps in a row failed: fault in step 2$") as caught:
        engine.step()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_good_step_starts_the_count_of_failed_ones_again() -> None:
    bad_steps = [0, 1, 3, 4, 6, 7]
    engine = make_engine(wrap=partial(Faulty, bad_steps=bad_steps))
    outcomes = [failed_ids(generate(engine, make_request(str(number), P, 1))) for number in range(9)]
    assert outcomes == [[str(number)] if number in bad_steps else [] for number in range(9)]


def test_a_failed_step_is_logged_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    generate(make_engine(fault_token=FAULT), make_request("bad", [1, FAULT]))
    assert [record.message for record in caplog.records] == ["a step with 1 chunks failed"]
    assert "scripted fault at token 13" in caplog.text


# Logits that are not finite


def starts_with_nine(row: SamplingRow) -> bool:
    return row.history[0] == 9


def third_token_of_nine(row: SamplingRow) -> bool:
    return starts_with_nine(row) and row.token_index == 2


def engine_without_finite_logits_for_nine() -> Engine:
    return make_engine(wrap=partial(NotFinite, is_bad=third_token_of_nine))


def test_logits_that_are_not_finite_fail_their_request_only() -> None:
    engine = engine_without_finite_logits_for_nine()
    engine.submit(make_request("bad", [9, 9], 4))
    engine.submit(make_request("p", P, 4))
    events = run_to_end(engine)
    assert tokens_of(events, "p") == P_TOKENS
    assert tokens_of(events, "bad") == scripted_tokens([9, 9], 2)
    assert events_of(events, "bad")[-1] == FailEvent("bad", NOT_FINITE)
    assert failed_ids(events) == ["bad"]


def test_rows_that_led_to_logits_that_are_not_finite_are_never_reused() -> None:
    engine = make_engine(wrap=partial(NotFinite, is_bad=starts_with_nine))
    prompt_ids = [9] * 10
    assert failed_ids(generate(engine, make_request("bad", prompt_ids))) == ["bad"]
    events = generate(engine, make_request("again", prompt_ids))
    assert isinstance(events[0], StartEvent)
    assert events[0].num_reused_tokens == 0


def test_logits_that_are_not_finite_are_no_failed_step() -> None:
    engine = make_engine(wrap=partial(NotFinite, is_bad=starts_with_nine))
    for number in range(MAX_FAILED_STEPS + 1):
        assert failed_ids(generate(engine, make_request(str(number), [9]))) == [str(number)]
