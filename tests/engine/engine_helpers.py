"""Requests, engines and programs for the engine's tests, and the scripted arithmetic written a second time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ranvier.core import (
    Capabilities,
    EngineRequest,
    Event,
    Limits,
    SamplingRow,
    StepPlan,
    StepResult,
    TokenEvent,
)
from ranvier.engine import Engine
from ranvier.targets import Programs
from ranvier.targets.scripted import ScriptedPrograms
from scripted_requests import GUARD_S, VOCAB_SIZE


def make_limits(
    *, batch_size: int = 2, sequence_length: int = 32, max_input_tokens: int | None = None, budget: int = 32
) -> Limits:
    return Limits(
        batch_size=batch_size,
        sequence_length=sequence_length,
        max_input_tokens=sequence_length - 1 if max_input_tokens is None else max_input_tokens,
        max_batch_prefill_tokens=budget,
    )


def make_engine(
    *,
    limits: Limits | None = None,
    wrap: Callable[[Programs], Programs] | None = None,
    **scripted: Any,
) -> Engine:
    """An engine on the scripted target, whose programs `wrap` may put something around."""
    limits = limits or make_limits()
    programs: Programs = ScriptedPrograms(
        num_slots=limits.batch_size, sequence_length=limits.sequence_length, vocab_size=VOCAB_SIZE, **scripted
    )
    return Engine(programs if wrap is None else wrap(programs), limits)


def step(engine: Engine) -> list[Event]:
    """One step, its events, and a look at the engine's invariants."""
    outcome = engine.step()
    engine.check()
    return list(outcome.events)


def run_to_end(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.has_work:
        events += step(engine)
    return events


def mask_of(ids: Iterable[int]) -> bytes:
    """A mask that allows these ids."""
    mask = bytearray(-(-VOCAB_SIZE // 8))
    for token_id in ids:
        mask[token_id // 8] |= 1 << token_id % 8
    return bytes(mask)


class DrawnConstraint:
    """Allows a third of the ids, drawn anew for each token from the grammar's text and the tokens so far."""

    is_complete = False

    def __init__(self, grammar: str) -> None:
        self._seed = grammar

    def allowed(self) -> bytes:
        return mask_of(random.Random(self._seed).sample(range(VOCAB_SIZE), VOCAB_SIZE // 3))

    def accept(self, token_id: int) -> None:
        self._seed += f" {token_id}"


def submit(engine: Engine, request: EngineRequest) -> list[Event]:
    """Queue a request; one with a grammar gets its constraint at once."""
    events = engine.submit(request)
    if request.grammar is not None and not events:
        events += engine.admit(request.request_id, DrawnConstraint(request.grammar))
    return events


def generate(engine: Engine, request: EngineRequest) -> list[Event]:
    """All events of one request that the engine has to itself."""
    refusal = submit(engine, request)
    return refusal or run_to_end(engine)


def events_of(events: Iterable[Event], request_id: str) -> list[Event]:
    return [event for event in events if event.request_id == request_id]


def tokens_of(events: Iterable[Event], request_id: str) -> list[int]:
    return [event.token_id for event in events_of(events, request_id) if isinstance(event, TokenEvent)]


class WrappedPrograms:
    """Passes everything on; the base of programs that misbehave."""

    def __init__(self, inner: Programs) -> None:
        self._inner = inner

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def details(self) -> dict[str, str]:
        return self._inner.details

    def run(self, plan: StepPlan) -> StepResult:
        return self._inner.run(plan)

    def release(self) -> None:
        self._inner.release()


class NotFinite(WrappedPrograms):
    """Has no finite logits for the rows that `is_bad` names."""

    def __init__(self, inner: Programs, is_bad: Callable[[SamplingRow], bool]) -> None:
        super().__init__(inner)
        self._is_bad = is_bad

    def run(self, plan: StepPlan) -> StepResult:
        choices = self._inner.run(plan).choices
        return StepResult(
            tuple(None if self._is_bad(row) else choice for row, choice in zip(plan.rows, choices, strict=True))
        )


class Faulty(WrappedPrograms):
    """Raises in the steps whose numbers, from 0, are given.

    Before it does, it skips the step's prefix shares and spoils the rows of its chunks: the worst a device can leave.
    """

    def __init__(self, inner: Programs, bad_steps: Iterable[int]) -> None:
        super().__init__(inner)
        self._bad_steps = frozenset(bad_steps)
        self.num_steps = 0

    def run(self, plan: StepPlan) -> StepResult:
        number = self.num_steps
        self.num_steps += 1
        if number not in self._bad_steps:
            return self._inner.run(plan)
        spoiled = [replace(chunk, token_ids=[token + 1 for token in chunk.token_ids]) for chunk in plan.chunks]
        self._inner.run(StepPlan(tuple(spoiled), (), plan.rows))
        raise RuntimeError(f"fault in step {number}")


class Gated(WrappedPrograms):
    """Each run waits for a permit, so that a test decides when steps happen."""

    def __init__(self, inner: Programs) -> None:
        super().__init__(inner)
        self._permits = threading.Semaphore(0)
        self._entered = threading.Semaphore(0)

    def run(self, plan: StepPlan) -> StepResult:
        self._entered.release()
        assert self._permits.acquire(timeout=GUARD_S), "no permit came"
        return self._inner.run(plan)

    def wait_for_run(self) -> None:
        """Wait until one more run has begun."""
        assert self._entered.acquire(timeout=GUARD_S), "no run began"

    def permit(self, num_runs: int) -> None:
        self._permits.release(num_runs)
