"""Requests whose tokens a grammar restricts, and requests that score their prompt.

[5, 6, 7] has S = 18, so its first token would be 55. A mask without 55 leaves logits of 0 everywhere: the smallest
allowed id is taken, with log-probability -ln(number of allowed ids). Scores: after [5] the prediction is 16, after
[5, 6] it is 34; ids that are not predicted have -ln(e^8 + 99) each, predicted ones 8 more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from engine_helpers import events_of, generate, make_engine, make_limits, mask_of, run_to_end, step, tokens_of
from test_engine_loop import Watched, gated_engine

from ranvier.core import Constraint, FailEvent, FinishEvent, PromptEvent, StartEvent, TokenEvent
from ranvier.engine import EngineLoop
from ranvier.errors import GenerationError, ValidationError
from scripted_requests import VOCAB_SIZE, make_request, scripted_tokens

P, P_TOKENS = [5, 6, 7], [55, 34, 49, 15]
LOG_MASS = math.log(math.exp(8) + VOCAB_SIZE - 1)


class Script:
    """Allows the sets of ids given, one after the other; complete after the last. Fails where a set is None."""

    def __init__(self, *sets: Iterable[int] | None) -> None:
        self._sets = list(sets)
        self.accepted: list[int] = []

    @property
    def is_complete(self) -> bool:
        return len(self.accepted) >= len(self._sets)

    def allowed(self) -> bytes:
        ids = self._sets[len(self.accepted)]
        if ids is None:
            raise GenerationError("the grammar became too large")
        return mask_of(ids)

    def accept(self, token_id: int) -> None:
        if token_id == 99:
            raise GenerationError("token 99 is not allowed")
        self.accepted.append(token_id)


def test_a_request_with_a_grammar_waits_for_its_constraint_while_others_go_on() -> None:
    engine = make_engine()
    engine.submit(replace(make_request("held", P), grammar="g"))
    assert not engine.has_work
    engine.submit(make_request("free", P, 2))
    assert tokens_of(run_to_end(engine), "free") == P_TOKENS[:2]
    engine.admit("held", Script({1, 2}, {3}, {55}))
    engine.check()
    assert tokens_of(run_to_end(engine), "held") == [1, 3, 55]


def test_the_mask_narrows_the_choice_and_its_log_probability() -> None:
    engine = make_engine()
    engine.submit(replace(make_request("r", P, 1), grammar="g"))
    engine.admit("r", Script({20, 30, 40}))
    token = next(event for event in run_to_end(engine) if isinstance(event, TokenEvent))
    assert (token.token_id, token.logprob) == (20, pytest.approx(-math.log(3)))


def test_each_slot_has_its_own_constraint() -> None:
    engine = make_engine(limits=make_limits(batch_size=3))
    for name, sets in (("a", ({1}, {2}, {3})), ("b", ({4}, {5}, {6}))):
        engine.submit(replace(make_request(name, P), grammar=name))
        engine.admit(name, Script(*sets))
    engine.submit(make_request("free", P))
    events = run_to_end(engine)
    assert tokens_of(events, "a") == [1, 2, 3]
    assert tokens_of(events, "b") == [4, 5, 6]
    assert tokens_of(events, "free") == scripted_tokens(P, 3)


def test_an_end_token_ends_the_request_without_asking_the_constraint() -> None:
    engine = make_engine()
    script = Script({9}, {77})
    engine.submit(replace(make_request("r", P, 8, eos=[77]), grammar="g"))
    engine.admit("r", script)
    assert run_to_end(engine)[-1] == FinishEvent("r", "eos_token")
    assert script.accepted == [9]


def test_a_complete_constraint_ends_a_request_that_has_no_end_token() -> None:
    engine = make_engine()
    engine.submit(replace(make_request("r", P, 8), grammar="g"))
    engine.admit("r", Script({9}))
    events = run_to_end(engine)
    assert tokens_of(events, "r") == [9]
    assert events[-1] == FinishEvent("r", "eos_token")


def test_a_constraint_that_cannot_go_on_fails_its_request_only() -> None:
    engine = make_engine(limits=make_limits(batch_size=3))
    for name, sets in (("mask", ({1}, None)), ("token", ({99},))):
        engine.submit(replace(make_request(name, P), grammar=name))
        engine.admit(name, Script(*sets))
    engine.submit(make_request("free", P))
    events = run_to_end(engine)
    assert events_of(events, "mask")[-1] == FailEvent("mask", "the grammar became too large")
    assert events_of(events, "token")[-1] == FailEvent("token", "token 99 is not allowed")
    assert tokens_of(events, "free") == scripted_tokens(P, 3)


def test_a_held_request_can_be_cancelled_and_its_constraint_comes_too_late() -> None:
    engine = make_engine()
    engine.submit(replace(make_request("r", P), grammar="g"))
    assert engine.cancel("r") == [FinishEvent("r", "cancelled")]
    assert engine.admit("r", Script({1})) == []
    engine.check()
    assert not engine.has_work


def test_a_held_request_can_fail() -> None:
    engine = make_engine()
    engine.submit(replace(make_request("r", P), grammar="g"))
    assert engine.fail("r", "no") == [FailEvent("r", "no")]
    assert engine.fail("r", "again") == []
    engine.check()


# The thread


def factory(grammar: str, eos_token_ids: frozenset[int]) -> Constraint:
    if grammar == "bad":
        raise ValidationError("grammar is not valid")
    if grammar == "broken":
        raise RuntimeError("a defect")
    return Script({1}, {2}, {3})


def watched(constraint_factory: object = factory) -> Watched:
    engine, gate = gated_engine()
    gate.permit(100)
    made = Watched(engine)
    made.loop = EngineLoop(engine, made._deliver, made.losses.put, constraint_factory)  # type: ignore[arg-type]
    return made


def test_the_loop_compiles_a_grammar_and_then_runs_the_request() -> None:
    with watched() as made:
        made.loop.submit(replace(make_request("r", P), grammar="good"))
        assert tokens_of(made.until_ended(1), "r") == [1, 2, 3]


@pytest.mark.parametrize(
    ("grammar", "message"),
    [("bad", "grammar is not valid"), ("broken", "the grammar could not be compiled: RuntimeError")],
)
def test_a_grammar_that_does_not_compile_fails_its_request(grammar: str, message: str) -> None:
    with watched() as made:
        made.loop.submit(replace(make_request("r", P), grammar=grammar))
        made.loop.submit(make_request("free", P))
        events = made.until_ended(2)
    assert events_of(events, "r") == [FailEvent("r", message)]
    assert tokens_of(events, "free") == scripted_tokens(P, 3)


def test_an_engine_without_grammars_fails_such_a_request() -> None:
    with watched(None) as made:
        made.loop.submit(replace(make_request("r", P), grammar="good"))
        assert made.until_ended(1) == [FailEvent("r", "this engine was started without grammars")]


# Scores of the prompt


def test_a_prompt_is_scored_before_its_first_token() -> None:
    engine = make_engine()
    events = generate(engine, replace(make_request("r", [5, 16, 9], 1), wants_prompt_logprobs=True))
    assert [type(event) for event in events] == [StartEvent, PromptEvent, TokenEvent, FinishEvent]
    assert isinstance(events[1], PromptEvent)
    assert events[1].logprobs == pytest.approx((8 - LOG_MASS, -LOG_MASS))


def test_a_prompt_of_one_token_has_no_scores() -> None:
    events = generate(make_engine(), replace(make_request("r", [5], 1), wants_prompt_logprobs=True))
    assert PromptEvent("r", ()) in events


def test_scores_do_not_depend_on_how_the_prompt_is_cut_or_what_the_cache_holds() -> None:
    prompt = [5, 16, 9, 91, 4, 4, 7, 30, 2, 1, 0, 8, 8, 50]
    scored = replace(make_request("r", prompt, 2), wants_prompt_logprobs=True)
    whole = generate(make_engine(), scored)
    engine = make_engine(limits=make_limits(budget=8))
    generate(engine, make_request("warm", prompt))
    cut = generate(engine, scored)
    assert [event for event in cut if not isinstance(event, StartEvent)] == whole[1:]
    assert isinstance(cut[0], StartEvent) and cut[0].num_reused_tokens == 0


def test_a_long_scored_prompt_is_computed_in_small_chunks_and_others_are_not() -> None:
    limits = make_limits(sequence_length=400, budget=400)
    engine = make_engine(limits=limits)
    engine.submit(replace(make_request("scored", range(300), 1), wants_prompt_logprobs=True))
    assert [len(events_of(step(engine), "scored")) for _ in range(3)] == [1, 0, 3]
    engine = make_engine(limits=limits)
    engine.submit(make_request("plain", range(300), 1))
    assert FinishEvent("plain", "length") in step(engine)
