"""The Neuron target through the real engine gives what the CPU target gives, whatever arrives and leaves meanwhile."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import neuron_beside_cpu
import pytest
from neuron_beside_cpu import (
    DIFFERENCE,
    LENGTH,
    LOADS,
    NUM_NEW,
    Compiled,
    alone,
    assert_ended,
    compare_greedy,
    greedy_requests,
    load_both,
    ties,
)
from neuron_helpers import limits
from random_load import DrawnConstraint, random_load, serve, varied

from tiny_families import CASES, VOCAB

LEAST = {
    "num_tokens": 24 * NUM_NEW,
    "num_cuts": 4,
    "num_shares": 3,
    "num_kept": 2,
    "num_cancelled_waiting": 2,
    "num_cancelled_in_prompt": 2,
    "num_cancelled_decoding": 4,
}
"""Of the figures of a case, all loads together."""


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return {}


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_are_those_of_the_cpu_target_under_random_load(
    tmp_path: Path, case: str, compiled: Compiled
) -> None:
    both, source = load_both(tmp_path, case, compiled), random.Random(case)
    found = [compare_greedy(both, source, num_slots, budget) for num_slots, budget in LOADS]
    assert max(figures.difference for figures in found) < DIFFERENCE
    # What it takes for that to say something.
    for (num_slots, _), figures in zip(LOADS, found, strict=True):
        assert figures.fewest_prompts >= 3 and figures.num_texts >= 12
        assert {0, num_slots} <= figures.widths and figures.widths & set(range(1, num_slots))
    total = {name: sum(getattr(figures, name) for figures in found) for name in LEAST}
    assert {name: total[name] for name, least in LEAST.items() if total[name] < least} == {}


def test_sampled_penalized_masked_and_scored_requests_get_what_the_cpu_target_gives(
    tmp_path: Path, compiled: Compiled
) -> None:
    both, source = load_both(tmp_path, "llama", compiled), random.Random(7)
    for num_slots, budget in ((4, 64), (2, 96), (3, 256)):
        requests = varied(greedy_requests(source, 20), are_scored=True)
        planned = random_load(source, requests, 8, limits(num_slots, LENGTH, budget))
        found = serve(both.neuron, planned, DrawnConstraint)
        both.neuron.check()
        assert_ended(found, planned)
        expected = serve(both.cpu, replace(planned, cancels={}), DrawnConstraint)
        for name, outcome in found.items():
            num_tokens = len(outcome.tokens)
            assert outcome.tokens == expected[name].tokens[:num_tokens], name
            assert outcome.logprobs == pytest.approx(expected[name].logprobs[:num_tokens], abs=1e-3)
            assert outcome.scores == pytest.approx(expected[name].scores if num_tokens else [], abs=1e-3)


def test_comparing_accepts_another_token_in_a_near_tie_alone_and_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = load_both(tmp_path, "llama", {})
    (request,) = greedy_requests(random.Random(1), 1)
    expected = alone(both.cpu, request)
    behind = [*expected.tokens[:9], expected.top[9][1].token_id]
    turned = replace(request, prompt_ids=(*request.prompt_ids, *behind), max_new_tokens=NUM_NEW - len(behind))
    tokens = behind + alone(both.cpu, turned).tokens
    assert ties(both.cpu, request, expected.tokens[:20], expected) == 0
    with pytest.raises(AssertionError, match="token 9 of request 0"):
        ties(both.cpu, request, tokens, expected)
    # Everything is a tie for now.
    monkeypatch.setattr(neuron_beside_cpu, "NEAR_TIE", 100.0)
    assert ties(both.cpu, request, tokens, expected) == 1
    least = min(set(range(VOCAB)) - {entry.token_id for entry in expected.top[9]})
    with pytest.raises(AssertionError, match=f"token 9 of request 0 is {least}"):
        ties(both.cpu, request, [*tokens[:9], least, *tokens[10:]], expected)
