"""The Neuron target and the CPU target with the same tiny model, under the same random load. Needs JAX."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine_runs import engine_request
from neuron_helpers import limits, load
from random_load import Load, Outcome, Watched, random_load, serve

from ranvier.core import EngineRequest, SamplingParams
from ranvier.models import spec_of
from ranvier.targets.cpu import CpuOptions, CpuPrograms, load_cpu
from ranvier.targets.neuron import Buckets, NeuronPrograms
from tiny_families import VOCAB, config

LENGTH, NUM_NEW = 128, 32
LONGEST_PROMPT = LENGTH - NUM_NEW
BUCKETS = Buckets(prefill=(32,), chunk=(96,), decode=(64, LENGTH), score=32)
"""Prompts over 32 tokens go in pieces; a piece from position 64 on reaches beyond the cache."""
NUM_REQUESTS, NUM_CANCELS = 24, 10
LOADS = ((4, 64), (3, 80))
"""Slots of the engine, and the most prompt tokens of a step: one engine after the other on the same programs."""

DIFFERENCE = 2e-5
"""Of log-probabilities on the two targets; twice what was seen."""
NEAR_TIE = 2 * DIFFERENCE
"""A token that leads by less may come second on the other target."""

Compiled = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Beside:
    """Both targets, loaded with four slots."""

    neuron: NeuronPrograms
    cpu: CpuPrograms


def load_both(folder: Path, case: str, compiled: Compiled) -> Beside:
    """`compiled` is filled with the programs, and spares compiling what another case has compiled already."""
    neuron = load(folder, case, buckets=BUCKETS, served=limits(4, LENGTH))
    options = CpuOptions(dtype="float32", kv_cache_dtype="auto", num_threads=1)
    share_compiled(neuron, compiled)
    return Beside(neuron, load_cpu(spec_of(config(case)), folder / "packed", limits(4, LENGTH), options))


def share_compiled(programs: NeuronPrograms, compiled: Compiled) -> None:
    """Compile programs of the same text once.

    Weights are arguments, and a program without some of them has the same text: their names are part of what is told
    apart.
    """
    made = programs._programs
    make = made.named

    def named(name: str) -> Any:
        if name not in made._made:
            program = make(name)
            lowered = program.function.lower(*program.arguments)
            key = f"{lowered.in_tree} {lowered.as_text(debug_info=True)}"
            if key not in compiled:
                compiled[key] = lowered.compile()
            made._made[name] = replace(program, function=compiled[key])
        return made._made[name]

    made.named = named  # type: ignore[method-assign]


def greedy_requests(source: random.Random, count: int) -> list[EngineRequest]:
    """A prompt of 96 tokens, then others around the borders of buckets and chunks, many with a shared beginning."""
    shared = [_drawn(source, 80) for _ in range(2)]
    prompts = [_drawn(source, LONGEST_PROMPT)]
    while len(prompts) < count:
        begin = source.choice(shared)[: source.choice([0, 0, 32, 40, 64, 80])]
        own = _drawn(source, source.choice([1, 2, 5, 15, 40, 96]))
        prompts.append((begin + own)[:LONGEST_PROMPT])
    return [engine_request(str(number), ids, NUM_NEW, SamplingParams()) for number, ids in enumerate(prompts)]


def _drawn(source: random.Random, count: int) -> list[int]:
    return [source.randrange(VOCAB) for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the Neuron target was put through in one load, and how near the CPU target was.

    * `num_tokens` were compared, of `num_texts` different outputs; `num_ties` near ties were decided the other way.
    * `num_cuts`, `num_shares`: see `Watched`. `num_kept`: prefixes found in the request's own slot.
    * Cancels came while the request waited, between two parts of its prompt, while it decoded.
    * `fewest_prompts`: of all slots.
    * `widths`: how many slots decoded at once, all that occurred.
    * `difference`: the largest of log-probabilities. `margin`: the smallest by which a token was chosen.
    """

    num_requests: int
    num_tokens: int
    num_texts: int
    num_ties: int
    num_cuts: int
    num_shares: int
    num_kept: int
    num_cancelled_waiting: int
    num_cancelled_in_prompt: int
    num_cancelled_decoding: int
    fewest_prompts: int
    widths: frozenset[int]
    difference: float
    margin: float


def compare_greedy(both: Beside, source: random.Random, num_slots: int, budget: int) -> Figures:
    """Serve one random load on both targets. Raises `AssertionError` where a request got anything else on one of them.

    What to expect is what the CPU target gives where nobody cancels.
    """
    served = limits(num_slots, LENGTH, budget)
    planned = random_load(source, greedy_requests(source, NUM_REQUESTS), NUM_CANCELS, served)
    expected = serve(both.cpu, without_cancels(planned))
    watched = Watched(both.neuron)
    found, reference = serve(watched, planned), serve(both.cpu, planned)
    both.neuron.check()
    requests = {request.request_id: request for _, request in planned.arrivals}
    assert {name: len(outcome.tokens) for name, outcome in expected.items()} == dict.fromkeys(requests, NUM_NEW)
    for outcomes in (found, reference):
        assert_ended(outcomes, planned)
    num_ties = sum(ties(both.cpu, requests[name], found[name].tokens, expected[name]) for name in requests)
    for name in requests:
        assert ties(both.cpu, requests[name], reference[name].tokens, expected[name]) == 0
    return figures(found, expected, watched, num_slots, num_ties)


def without_cancels(load: Load) -> Load:
    """The same requests, which also tell their second-likeliest tokens."""
    params = SamplingParams(top_n_tokens=2)
    return replace(load, arrivals=[(at, replace(one, sampling=params)) for at, one in load.arrivals], cancels={})


def assert_ended(outcomes: Mapping[str, Outcome], load: Load) -> None:
    """Each request once, and with all its tokens if it was not cancelled."""
    assert len(outcomes) == len(load.arrivals)
    for name, outcome in outcomes.items():
        assert len(outcome.ends) == 1, name
        assert name in load.cancels or not outcome.is_cancelled, name
        assert outcome.is_cancelled or len(outcome.tokens) == NUM_NEW, name


def ties(cpu: CpuPrograms, request: EngineRequest, tokens: Sequence[int], expected: Outcome) -> int:
    """How often the CPU target's second-likeliest token stands where the likeliest led by less than `NEAR_TIE`.

    What follows such a token must be what the CPU target gives after it. Raises `AssertionError` for everything else.
    Fewer tokens than expected are compared as far as they go.
    """
    at = num_equal(tokens, expected.tokens)
    if at == min(len(tokens), len(expected.tokens)):
        return 0
    first, second = expected.top[at]
    lead = first.logprob - second.logprob
    assert tokens[at] == second.token_id and lead < NEAR_TIE, (
        f"token {at} of request {request.request_id} is {tokens[at]}; the CPU target chose {first} before {second}"
    )
    left = request.max_new_tokens - at - 1
    if not left:
        return 1
    rest = replace(request, prompt_ids=(*request.prompt_ids, *tokens[: at + 1]), max_new_tokens=left)
    return 1 + ties(cpu, rest, tokens[at + 1 :], alone(cpu, rest))


def num_equal(tokens: Sequence[int], others: Sequence[int]) -> int:
    """Tokens before the first that differs."""
    pairs = list(zip(tokens, others, strict=False))
    return next((index for index, (token, other) in enumerate(pairs) if token != other), len(pairs))


def alone(cpu: CpuPrograms, request: EngineRequest) -> Outcome:
    """What the CPU target gives to one request, with its second-likeliest tokens."""
    return serve(cpu, without_cancels(Load([(0, request)], {}, limits(4, LENGTH))))[request.request_id]


def figures(
    found: Mapping[str, Outcome], expected: Mapping[str, Outcome], watched: Watched, num_slots: int, num_ties: int
) -> Figures:
    cancelled = [outcome for outcome in found.values() if outcome.is_cancelled]
    num_waiting = sum(outcome.num_reused is None for outcome in cancelled)
    num_decoding = sum(bool(outcome.tokens) for outcome in cancelled)
    differences = [
        abs(outcome.logprobs[index] - expected[name].logprobs[index])
        for name, outcome in found.items()
        for index in range(num_equal(outcome.tokens, expected[name].tokens))
    ]
    leads = [first.logprob - second.logprob for outcome in expected.values() for first, second in outcome.top]
    return Figures(
        num_requests=len(found),
        num_tokens=sum(len(outcome.tokens) for outcome in found.values()),
        num_texts=len({tuple(outcome.tokens) for outcome in expected.values()}),
        num_ties=num_ties,
        num_cuts=watched.num_cuts,
        num_shares=watched.num_shares,
        num_kept=sum(bool(outcome.num_reused) for outcome in found.values()) - watched.num_shares,
        num_cancelled_waiting=num_waiting,
        num_cancelled_in_prompt=len(cancelled) - num_waiting - num_decoding,
        num_cancelled_decoding=num_decoding,
        fewest_prompts=min(watched.prompts_of_slot[slot] for slot in range(num_slots)),
        widths=frozenset(watched.widths),
        difference=max(differences),
        margin=min(leads),
    )
