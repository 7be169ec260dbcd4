"""The Neuron target through the real engine gives what the CPU target gives, whatever arrives and leaves meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from engine_runs import engine_request
from neuron_helpers import few_buckets, limits, load

from ranvier.core import EngineRequest, FailEvent, PromptEvent, SamplingParams, TokenEvent
from ranvier.engine import Engine
from ranvier.models import spec_of
from ranvier.targets import Programs
from ranvier.targets.cpu import CpuOptions, load_cpu
from tiny_families import VOCAB, config

LENGTH = 96


class DrawnConstraint:
    """Allows a third of the ids, drawn anew for each token from the grammar's text and the tokens so far."""

    is_complete = False

    def __init__(self, grammar: str) -> None:
        self._seed = grammar

    def allowed(self) -> bytes:
        mask = bytearray(VOCAB // 8)
        for token_id in random.Random(self._seed).sample(range(VOCAB), VOCAB // 3):
            mask[token_id // 8] |= 1 << token_id % 8
        return bytes(mask)

    def accept(self, token_id: int) -> None:
        self._seed += f" {token_id}"


@dataclass(slots=True)
class Outcome:
    """What a request got: scores of its prompt, tokens with log-probabilities."""

    scores: list[float]
    tokens: list[int]
    logprobs: list[float]


def serve(
    programs: Programs, arrivals: list[list[EngineRequest]], cancel_after: dict[str, int], num_slots: int, budget: int
) -> dict[str, Outcome]:
    """Submit one list of requests before each step; cancel those named when they have got so many tokens."""
    engine = Engine(programs, limits(num_slots, LENGTH, budget))
    outcomes = {request.request_id: Outcome([], [], []) for group in arrivals for request in group}
    waiting = list(arrivals)
    while waiting or engine.has_work:
        for request in waiting.pop(0) if waiting else ():
            assert engine.submit(request) == []
            if request.grammar is not None:
                engine.admit(request.request_id, DrawnConstraint(request.grammar))
        for event in engine.step().events if engine.has_work else ():
            outcome = outcomes[event.request_id]
            assert not isinstance(event, FailEvent), event
            if isinstance(event, PromptEvent):
                outcome.scores += event.logprobs
            elif isinstance(event, TokenEvent):
                outcome.tokens.append(event.token_id)
                outcome.logprobs.append(event.logprob)
                if cancel_after.get(event.request_id) == len(outcome.tokens):
                    engine.cancel(event.request_id)
        engine.check()
    return outcomes


def greedy_requests(source: random.Random, count: int) -> list[EngineRequest]:
    """Prompts around the borders of buckets and chunks, many with a shared beginning."""
    shared = [source.randrange(VOCAB) for _ in range(70)]
    requests = []
    for number in range(count):
        own = [source.randrange(VOCAB) for _ in range(source.choice([1, 2, 5, 15]))]
        prompt_ids = shared[: source.choice([0, 0, 32, 40, 64])] + own
        num_tokens = min(source.randrange(1, 30), LENGTH - len(prompt_ids))
        requests.append(engine_request(str(number), prompt_ids, num_tokens, SamplingParams()))
    return requests


def varied(requests: list[EngineRequest]) -> list[EngineRequest]:
    """The same prompts with every parameter there is."""
    kinds = [
        SamplingParams(),
        SamplingParams(do_sample=True, temperature=1.3, seed=1),
        SamplingParams(do_sample=True, top_p=0.9, top_k=40, seed=2, frequency_penalty=0.7, top_n_tokens=2),
        SamplingParams(repetition_penalty=1.3, presence_penalty=0.8),
        SamplingParams(do_sample=True, typical_p=0.8, seed=3, presence_penalty=-0.5),
    ]
    return [
        replace(
            request,
            sampling=kinds[number % 5],
            grammar="g" if number % 4 == 1 else None,
            wants_prompt_logprobs=number % 6 == 2,
        )
        for number, request in enumerate(requests)
    ]


def in_groups(source: random.Random, requests: list[EngineRequest]) -> list[list[EngineRequest]]:
    left, groups = list(requests), []
    while left:
        count = source.choice([0, 1, 1, 2, 5])
        groups.append(left[:count])
        left = left[count:]
    return groups


def load_cpu_target(folder: Path, case: str) -> Programs:
    options = CpuOptions(dtype="float32", kv_cache_dtype="auto", num_threads=1)
    return load_cpu(spec_of(config(case)), folder / "packed", limits(4, LENGTH), options)


def assert_alike(found: dict[str, Outcome], expected: dict[str, Outcome]) -> None:
    for name, outcome in expected.items():
        assert found[name].tokens == outcome.tokens, name
        assert found[name].logprobs == pytest.approx(outcome.logprobs, abs=1e-3)
        assert found[name].scores == pytest.approx(outcome.scores, abs=1e-3)


def compare(folder: Path, case: str, num_requests: int, *, is_varied: bool) -> None:
    programs = load(folder, case, buckets=few_buckets(LENGTH), served=limits(4, LENGTH))
    reference = load_cpu_target(folder, case)
    source = random.Random(7)
    for num_slots, budget in ((4, 64), (2, 96), (3, 256)):
        requests = greedy_requests(source, num_requests)
        requests = varied(requests) if is_varied else requests
        cancelled = {request.request_id: source.randrange(1, 6) for request in source.sample(requests, 4)}
        arrivals = in_groups(source, requests)
        found = serve(programs, arrivals, cancelled, num_slots, budget)
        programs.check()
        assert_alike(found, serve(reference, in_groups(source, requests), cancelled, num_slots, 96))


@pytest.mark.parametrize("case", ["mistral", "gemma3_text"])
def test_greedy_tokens_are_those_of_the_cpu_target_under_random_load(tmp_path: Path, case: str) -> None:
    compare(tmp_path, case, 14, is_varied=False)


def test_sampled_penalized_masked_and_scored_requests_get_what_the_cpu_target_gives(tmp_path: Path) -> None:
    compare(tmp_path, "llama", 20, is_varied=True)
