"""Requests put through an engine in any order of arrival, and the tokens and log probabilities that they got."""

from __future__ import annotations

from collections.abc import Iterator

from ranvier.core import (
    ConstraintFactory,
    EngineRequest,
    FailEvent,
    Limits,
    PromptEvent,
    SamplingParams,
    TokenEvent,
)
from ranvier.engine import Engine
from ranvier.targets.cpu import CpuPrograms

Generated = dict[str, list[tuple[int, float]]]


def run_engine(
    programs: CpuPrograms,
    arrivals: list[list[EngineRequest]],
    limits: Limits,
    constraints: ConstraintFactory | None = None,
) -> Generated:
    """Submit one list of requests before each step; return every request's scores, tokens and logprobs."""
    engine = Engine(programs, limits)
    generated: Generated = {request.request_id: [] for group in arrivals for request in group}
    queue: Iterator[list[EngineRequest]] = iter(arrivals)
    group: list[EngineRequest] | None = next(queue, None)
    while group is not None or engine.has_work:
        for request in group or ():
            assert engine.submit(request) == []
            if request.grammar is not None and constraints is not None:
                engine.admit(request.request_id, constraints(request.grammar, request.eos_token_ids))
        group = next(queue, None)
        if not engine.has_work:
            continue
        for event in engine.step().events:
            if isinstance(event, TokenEvent):
                generated[event.request_id].append((event.token_id, event.logprob))
            elif isinstance(event, PromptEvent):
                generated[event.request_id] += enumerate(event.logprobs)
            assert not isinstance(event, FailEvent), event
        engine.check()
        programs.check()
    return generated


def engine_request(name: str, prompt_ids: list[int], num_tokens: int, sampling: SamplingParams) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        prompt_ids=tuple(prompt_ids),
        max_new_tokens=num_tokens,
        eos_token_ids=frozenset(),
        sampling=sampling,
    )
