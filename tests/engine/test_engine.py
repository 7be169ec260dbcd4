"""The engine on the scripted target; every token below is worked out here.

With a vocabulary of 100, S the sum of all ids so far, and p the position of the last token t:
first token (3 * S + 1) mod 100, each later one (t + 2 * p + S) mod 100.

P = [5, 6, 7], S = 18              Q = [1, 2, 3, 4, 5, 6], S = 21
    3 * 18 + 1          -> 55          3 * 21 + 1           -> 64
    55 + 6 + 73  = 134  -> 34          64 + 12 + 85  = 161  -> 61
    34 + 8 + 107 = 149  -> 49          61 + 14 + 146 = 221  -> 21
    49 + 10 + 156 = 215 -> 15          21 + 16 + 167 = 204  -> 4

L = [1, 2, 3, 4, 5, 6, 7, 8, 9], S = 45: 3 * 45 + 1 = 136 -> 36, then 36 + 18 + 81 = 135 -> 35.

The chosen token's logit is 8 and all 99 others' are 0, so its log-probability is 8 - log(e**8 + 99).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from engine_helpers import events_of, generate, make_engine, make_limits, run_to_end, step, tokens_of

from ranvier.core import Event, FailEvent, FinishEvent, StartEvent, TokenEvent
from ranvier.engine import Engine
from scripted_requests import make_request, scripted_tokens

P, P_TOKENS = [5, 6, 7], [55, 34, 49, 15]
Q, Q_TOKENS = [1, 2, 3, 4, 5, 6], [64, 61, 21, 4]
L, L_TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9], [36, 35]
LOGPROB = 8 - math.log(math.exp(8) + 99)


def submitted(engine: Engine, *requests: tuple[str, list[int], int]) -> Engine:
    """The engine with (id, prompt, number of new tokens) queued."""
    for request_id, prompt_ids, max_new_tokens in requests:
        assert engine.submit(make_request(request_id, prompt_ids, max_new_tokens)) == []
    return engine


def kinds(events: Iterable[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def rounded(event: Event) -> Event:
    """Log-probabilities to six digits."""
    return replace(event, logprob=round(event.logprob, 6)) if isinstance(event, TokenEvent) else event


# Tokens and how a request ends


@pytest.mark.parametrize(("prompt_ids", "tokens"), [(P, P_TOKENS), (Q, Q_TOKENS), (L, L_TOKENS)])
def test_a_request_gets_the_tokens_worked_out_above(prompt_ids: list[int], tokens: list[int]) -> None:
    events = generate(make_engine(), make_request("r", prompt_ids, max_new_tokens=len(tokens)))
    assert tokens_of(events, "r") == tokens
    assert scripted_tokens(prompt_ids, len(tokens)) == tokens


def test_a_request_starts_then_gives_tokens_then_finishes() -> None:
    before_s = time.monotonic()
    events = [rounded(event) for event in generate(make_engine(), make_request("r", P, max_new_tokens=3))]
    start = events[0]
    assert isinstance(start, StartEvent)
    assert before_s <= start.at_s <= time.monotonic()
    assert events == [
        StartEvent("r", start.at_s, 0),
        TokenEvent("r", 55, round(LOGPROB, 6), ()),
        TokenEvent("r", 34, round(LOGPROB, 6), ()),
        TokenEvent("r", 49, round(LOGPROB, 6), ()),
        FinishEvent("r", "length"),
    ]


def test_a_step_gives_one_token_and_the_last_one_comes_with_the_finish() -> None:
    engine = submitted(make_engine(), ("r", P, 2))
    assert kinds(step(engine)) == ["StartEvent", "TokenEvent"]
    assert kinds(step(engine)) == ["TokenEvent", "FinishEvent"]
    assert not engine.has_work


def test_an_end_of_sequence_token_is_reported_and_ends_the_request() -> None:
    events = generate(make_engine(), make_request("r", P, max_new_tokens=4, eos=[34, 15]))
    assert tokens_of(events, "r") == [55, 34]
    assert events[-1] == FinishEvent("r", "eos_token")


def test_the_first_token_may_be_the_end_of_sequence() -> None:
    events = generate(make_engine(), make_request("r", P, max_new_tokens=4, eos=[55]))
    assert kinds(events) == ["StartEvent", "TokenEvent", "FinishEvent"]
    assert events[-1] == FinishEvent("r", "eos_token")


def test_an_end_of_sequence_token_at_the_length_limit_counts_as_such() -> None:
    events = generate(make_engine(), make_request("r", P, max_new_tokens=2, eos=[34]))
    assert events[-1] == FinishEvent("r", "eos_token")


def test_an_end_of_sequence_id_in_the_prompt_ends_nothing() -> None:
    events = generate(make_engine(), make_request("r", P, max_new_tokens=2, eos=[6]))
    assert tokens_of(events, "r") == [55, 34]


def test_top_tokens_are_reported_when_asked_for() -> None:
    events = generate(make_engine(), make_request("r", P, max_new_tokens=1, top_n_tokens=2))
    token = events[1]
    assert isinstance(token, TokenEvent)
    assert [item.token_id for item in token.top] == [55, 0]
    assert [item.logprob for item in token.top] == pytest.approx([LOGPROB, LOGPROB - 8])


def test_a_prompt_cut_into_chunks_gives_the_same_tokens() -> None:
    # 4 and 5 tokens, for 8 would leave a lone last one.
    engine = submitted(make_engine(limits=make_limits(budget=8)), ("r", L, 2))
    assert kinds(step(engine)) == ["StartEvent"]
    assert tokens_of(run_to_end(engine), "r") == L_TOKENS


@pytest.mark.parametrize("mixed_steps", [True, False])
def test_requests_side_by_side_do_not_disturb_each_other(mixed_steps: bool) -> None:
    engine = submitted(make_engine(mixed_steps=mixed_steps), ("p", P, 4))
    events = step(engine)
    submitted(engine, ("q", Q, 4))
    events += run_to_end(engine)
    assert tokens_of(events, "p") == P_TOKENS
    assert tokens_of(events, "q") == Q_TOKENS


def test_requests_beyond_the_slots_start_when_one_comes_free() -> None:
    engine = submitted(make_engine(limits=make_limits(batch_size=1)), ("p", P, 2), ("q", Q, 1))
    assert kinds([*step(engine), *step(engine)]) == ["StartEvent", "TokenEvent", "TokenEvent", "FinishEvent"]
    events = step(engine)
    assert kinds(events) == ["StartEvent", "TokenEvent", "FinishEvent"]
    assert tokens_of(events, "q") == [64]


# What the slots remember


def test_a_prompt_seen_before_reuses_rows_and_gets_the_same_tokens() -> None:
    engine = make_engine()
    generate(engine, make_request("first", L, 2))
    events = generate(engine, make_request("second", L, 2))
    start = events[0]
    assert isinstance(start, StartEvent)
    assert start.num_reused_tokens == 4
    assert tokens_of(events, "second") == L_TOKENS


def test_a_running_requests_prompt_is_shared_while_it_decodes() -> None:
    engine = submitted(make_engine(), ("first", L, 10))
    step(engine)
    submitted(engine, ("second", L, 2))
    events = run_to_end(engine)
    assert [event.num_reused_tokens for event in events if isinstance(event, StartEvent)] == [4]
    assert tokens_of(events, "second") == L_TOKENS


def test_without_prefix_sharing_nothing_is_reused() -> None:
    engine = make_engine(prefix_sharing=False)
    generate(engine, make_request("first", L, 2))
    events = generate(engine, make_request("second", L, 2))
    assert [event.num_reused_tokens for event in events if isinstance(event, StartEvent)] == [0]
    assert tokens_of(events, "second") == L_TOKENS


# Cancelling


def test_a_waiting_request_is_cancelled_without_having_started() -> None:
    engine = submitted(make_engine(limits=make_limits(batch_size=1)), ("p", P, 4), ("q", Q, 4))
    events = step(engine)
    assert engine.cancel("q") == [FinishEvent("q", "cancelled")]
    engine.check()
    events += run_to_end(engine)
    assert events_of(events, "q") == []
    assert tokens_of(events, "p") == P_TOKENS


def test_a_request_is_cancelled_in_the_middle_of_its_prefill() -> None:
    engine = submitted(make_engine(limits=make_limits(batch_size=1, budget=8)), ("l", L, 4), ("p", P, 4))
    assert kinds(step(engine)) == ["StartEvent"]
    assert engine.cancel("l") == [FinishEvent("l", "cancelled")]
    engine.check()
    events = run_to_end(engine)
    assert events_of(events, "l") == []
    assert tokens_of(events, "p") == P_TOKENS


def test_a_decoding_request_is_cancelled_and_its_slot_serves_the_next_step() -> None:
    engine = submitted(make_engine(limits=make_limits(batch_size=1)), ("p", P, 4), ("q", Q, 4))
    step(engine)
    step(engine)
    assert engine.cancel("p") == [FinishEvent("p", "cancelled")]
    assert tokens_of(step(engine), "q") == [64]


def test_cancelling_an_unknown_or_ended_request_does_nothing() -> None:
    engine = submitted(make_engine(), ("p", P, 1))
    assert engine.cancel("nobody") == []
    run_to_end(engine)
    assert engine.cancel("p") == []
    engine.check()


def test_cancel_all_ends_waiting_and_running_requests() -> None:
    engine = submitted(make_engine(limits=make_limits(batch_size=1)), ("p", P, 4), ("q", Q, 4))
    step(engine)
    assert engine.cancel_all() == [FinishEvent("p", "cancelled"), FinishEvent("q", "cancelled")]
    engine.check()
    assert not engine.has_work
    assert engine.cancel_all() == []


def test_an_id_can_be_used_again_once_its_request_has_ended() -> None:
    engine = submitted(make_engine(), ("r", P, 4))
    step(engine)
    engine.cancel("r")
    assert tokens_of(generate(engine, make_request("r", Q, 2)), "r") == [64, 61]


# What is refused


def test_a_request_that_fills_its_slot_to_the_last_token_is_served() -> None:
    engine = make_engine(limits=make_limits(sequence_length=7))
    assert tokens_of(generate(engine, make_request("p", P, 4)), "p") == P_TOKENS


@pytest.mark.parametrize(
    ("num_prompt", "max_new_tokens", "message"),
    [
        (3, 30, "3 prompt and 30 new tokens do not fit a slot of 32"),
        (0, 1, "0 prompt and 1 new tokens do not fit a slot of 32"),
        (21, 1, "21 prompt tokens are over the limit of 20"),
    ],
    ids=["too long together", "no prompt", "prompt too long"],
)
def test_a_request_outside_the_limits_fails_at_once(num_prompt: int, max_new_tokens: int, message: str) -> None:
    engine = make_engine(limits=make_limits(max_input_tokens=20))
    assert engine.submit(make_request("r", [1] * num_prompt, max_new_tokens)) == [FailEvent("r", message)]
    engine.check()
    assert not engine.has_work


def test_a_prompt_that_no_step_could_hold_does_not_keep_the_engine_spinning() -> None:
    """It was queued once: uncuttable and over the budget, it stood at the head of the queue for ever."""
    limits = make_limits(max_input_tokens=10, budget=10)
    engine = make_engine(limits=limits, chunk_multiple=0, prefix_sharing=False)
    assert kinds(engine.submit(make_request("r", [1] * 11, 1))) == ["FailEvent"]
    assert not engine.has_work


# Figures


def test_step_stats_count_tokens_slots_and_the_queue() -> None:
    engine = submitted(make_engine(prefix_sharing=False), ("p", P, 2), ("q", Q, 4), ("l", L, 2))
    figures = []
    for _ in range(3):
        stats = engine.step().stats
        assert stats.duration_s >= 0
        figures.append(
            (
                stats.num_prefill_tokens,
                stats.num_decode_tokens,
                stats.num_slots_used,
                stats.num_waiting,
                stats.num_started,
            )
        )
    # P and Q are prefilled; both decode and P ends; L is prefilled in P's slot beside Q's decode.
    assert figures == [(9, 0, 2, 1, 2), (0, 2, 1, 1, 0), (9, 1, 2, 0, 1)]


def test_a_prompt_of_one_token_counts_as_prefilled() -> None:
    stats = submitted(make_engine(), ("one", [5], 2)).step().stats
    assert (stats.num_prefill_tokens, stats.num_decode_tokens) == (1, 0)


def test_figures_without_a_step_tell_queue_and_slots_only() -> None:
    engine = submitted(make_engine(limits=make_limits(batch_size=1)), ("p", P, 4), ("q", Q, 4), ("l", L, 4))
    assert engine.step().stats.is_step
    engine.cancel("p")
    stats = engine.idle_stats()
    assert not stats.is_step
    assert (stats.duration_s, stats.num_slots_used, stats.num_waiting, stats.num_started) == (0.0, 0, 2, 0)


def test_reused_tokens_are_not_counted_as_prefilled() -> None:
    engine = make_engine()
    generate(engine, make_request("first", L, 2))
    submitted(engine, ("second", L, 2))
    assert engine.step().stats.num_prefill_tokens == 5


def test_check_finds_a_request_that_nobody_holds() -> None:
    engine = submitted(make_engine(), ("same", P, 2), ("same", Q, 2))
    with pytest.raises(AssertionError, match="1 open requests, 2 queued or in slots"):
        engine.check()
