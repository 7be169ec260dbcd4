"""Requests that arrive and are cancelled at random steps, put through an engine, and what became of each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ranvier.core import (
    Capabilities,
    Constraint,
    EngineRequest,
    Event,
    FailEvent,
    FinishEvent,
    Limits,
    PromptEvent,
    SamplingParams,
    StartEvent,
    StepPlan,
    StepResult,
    TokenEvent,
    TokenLogprob,
    is_terminal,
)
from ranvier.engine import Engine
from ranvier.targets import Programs
from tiny_families import VOCAB


@dataclass(frozen=True, slots=True)
class Cancel:
    """So many steps after a request arrived, or got its slot."""

    after: Literal["arrival", "start"]
    num_steps: int


@dataclass(frozen=True, slots=True)
class Load:
    """Each request is submitted before the step named. `cancels` are by request, `limits` are the engine's."""

    arrivals: Sequence[tuple[int, EngineRequest]]
    cancels: Mapping[str, Cancel]
    limits: Limits


def random_load(source: random.Random, requests: Sequence[EngineRequest], num_cancels: int, limits: Limits) -> Load:
    """All in their order, in bursts and with pauses; some are cancelled in the queue, some later.

    The first request is cancelled after one step: between two parts of its prompt, if it has more.
    """
    arrivals, step = [], 0
    for request in requests:
        step += source.choice([0, 0, 0, 1, 12, 25])
        arrivals.append((step, request))
    in_queue, *others = source.sample(requests[1:], num_cancels - 1)
    cancels = {requests[0].request_id: Cancel("start", 1), in_queue.request_id: Cancel("arrival", 0)}
    for request in others:
        late = Cancel("start", source.randrange(2, 31))
        kinds = [Cancel("arrival", source.randrange(3)), Cancel("start", 1), late, late]
        cancels[request.request_id] = source.choice(kinds)
    return Load(arrivals, cancels, limits)


@dataclass(slots=True)
class Outcome:
    """What a request got; `num_reused` prompt tokens were not computed, None while it has no slot."""

    num_reused: int | None = None
    scores: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[TokenLogprob, ...]] = field(default_factory=list)
    ends: list[Event] = field(default_factory=list)

    @property
    def is_cancelled(self) -> bool:
        """Whether a cancel was in time."""
        return any(isinstance(end, FinishEvent) and end.reason == "cancelled" for end in self.ends)

    def note(self, event: Event) -> None:
        """Nothing fails, and nothing comes after the end."""
        assert not self.ends and not isinstance(event, FailEvent), event
        if is_terminal(event):
            self.ends.append(event)
        elif isinstance(event, StartEvent):
            self.num_reused = event.num_reused_tokens
        elif isinstance(event, PromptEvent):
            self.scores += event.logprobs
        elif isinstance(event, TokenEvent):
            self.tokens.append(event.token_id)
            self.logprobs.append(event.logprob)
            self.top.append(event.top)


class Watched:
    """Programs whose step plans are counted on their way.

    * `num_cuts`: parts of prompts that end before the prompt does.
    * `num_shares`: prefixes copied from one slot to another.
    * `prompts_of_slot`: prompts that were put through to their end, by slot.
    * `widths`: steps by their number of decodes.
    """

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self.num_cuts = self.num_shares = 0
        self.prompts_of_slot: Counter[int] = Counter()
        self.widths: Counter[int] = Counter()

    @property
    def capabilities(self) -> Capabilities:
        return self._programs.capabilities

    @property
    def details(self) -> dict[str, str]:
        return self._programs.details

    def run(self, plan: StepPlan) -> StepResult:
        rows = iter(plan.rows)
        ended = [chunk for chunk in plan.chunks if chunk.wants_logits and next(rows).token_index == 0]
        num_cuts = sum(not chunk.wants_logits for chunk in plan.chunks)
        self.num_cuts += num_cuts
        self.num_shares += sum(share.source != share.target for share in plan.shares)
        self.prompts_of_slot.update(chunk.slot for chunk in ended)
        self.widths[len(plan.chunks) - len(ended) - num_cuts] += 1
        return self._programs.run(plan)

    def release(self) -> None:
        self._programs.release()


def serve(programs: Programs, load: Load, constraint: Callable[[str], Constraint] | None = None) -> dict[str, Outcome]:
    """Every request's outcome. Steps are counted also while there is nothing to do."""
    run = _Run(Engine(programs, load.limits), load, constraint)
    last = max(step for step, _ in load.arrivals)
    while run.step <= last or run.engine.has_work:
        run.advance()
        run.engine.check()
    return run.outcomes


class _Run:
    """A load on its way through an engine."""

    def __init__(self, engine: Engine, load: Load, constraint: Callable[[str], Constraint] | None) -> None:
        self.engine = engine
        self.outcomes: dict[str, Outcome] = {}
        self.step = 0
        self._load = load
        self._constraint = constraint
        # Names by the step before which they are cancelled.
        self._due: dict[int, list[str]] = {}

    def advance(self) -> None:
        for request in (request for step, request in self._load.arrivals if step == self.step):
            self._submit(request)
        for name in self._due.pop(self.step, ()):
            self._note(self.engine.cancel(name))
        if self.engine.has_work:
            self._note(self.engine.step().events)
        self.step += 1

    def _submit(self, request: EngineRequest) -> None:
        self.outcomes[request.request_id] = Outcome()
        self._note(self.engine.submit(request))
        if request.grammar is not None and self._constraint is not None:
            self.engine.admit(request.request_id, self._constraint(request.grammar))
        self._expect_cancel(request.request_id, "arrival")

    def _note(self, events: Sequence[Event]) -> None:
        for event in events:
            self.outcomes[event.request_id].note(event)
            if isinstance(event, StartEvent):
                self._expect_cancel(event.request_id, "start")

    def _expect_cancel(self, name: str, after: Literal["arrival", "start"]) -> None:
        cancel = self._load.cancels.get(name)
        if cancel is not None and cancel.after == after:
            self._due.setdefault(self.step + cancel.num_steps, []).append(name)


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


def varied(requests: list[EngineRequest], *, are_scored: bool) -> list[EngineRequest]:
    """The same prompts with every parameter there is; `are_scored`: some want their own log-probabilities."""
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
            wants_prompt_logprobs=are_scored and number % 6 == 2,
        )
        for number, request in enumerate(requests)
    ]
