"""The engine: plan, run, commit.

A request's way through
1. `submit` puts it at the end of the queue.
2. `step` lets the scheduler *plan*: requests get slots in order (`StartEvent`), prompts are cut into chunks, every
   decoding slot adds its last token.
3. The target *runs* the plan: one call, the only code that touches a device.
4. *commit* appends the chosen tokens (`TokenEvent`) and ends what is complete (`FinishEvent`), which frees the slot for
   the next plan.
5. When a run raises, the requests of that plan end with `FailEvent`; all others go on.

The surprising thing: nothing here knows text. Stop strings are found by the router, which then cancels.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from ranvier.core import (
    Constraint,
    EngineRequest,
    Event,
    FailEvent,
    FinishEvent,
    FinishReason,
    Limits,
    PromptEvent,
    StartEvent,
    StepPlan,
    StepResult,
    StepStats,
    TokenChoice,
    TokenEvent,
    WaitingFor,
)
from ranvier.engine.scheduler import Scheduler
from ranvier.engine.sequence import Sequence
from ranvier.errors import GenerationError
from ranvier.targets import Programs

_log = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
"""Failed steps in a row after which the device is taken for lost."""


class DeviceLostError(Exception):
    """Step after step failed: the process has to be started anew."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Events of one step, in order for each request, and its figures."""

    events: tuple[Event, ...]
    stats: StepStats


class Engine:
    """Continuous batching over the slots of one loaded model. Single-threaded: one caller at a time."""

    def __init__(self, programs: Programs, limits: Limits) -> None:
        self._programs = programs
        self._limits = limits
        self._scheduler = Scheduler(limits, programs.capabilities)
        self._sequences: dict[str, Sequence] = {}
        self._num_failed_steps = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return self._scheduler.has_work

    def submit(self, request: EngineRequest) -> list[Event]:
        """Queue a request. Returns its `FailEvent` at once when it is outside the limits, else nothing.

        One with a grammar is held back until `admit` brings the compiled constraint.
        """
        refusal = self._refusal(request)
        if refusal is not None:
            return [FailEvent(request.request_id, refusal)]
        sequence = Sequence(request, self._adapter_number(request))
        self._sequences[request.request_id] = sequence
        if not sequence.is_held:
            self._scheduler.enqueue(sequence)
        return []

    def admit(self, request_id: str, constraint: Constraint) -> list[Event]:
        """Queue a request that was held, with its grammar compiled. Nothing if it has ended meanwhile."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            sequence.constraint, sequence.is_held = constraint, False
            self._scheduler.enqueue(sequence)
        return []

    def fail(self, request_id: str, message: str) -> list[Event]:
        """End a request with a reason. Unknown ids give no event."""
        sequence = self._sequences.get(request_id)
        return [] if sequence is None else [self._drop(sequence, message)]

    def _refusal(self, request: EngineRequest) -> str | None:
        """Why a request can never be served; None when it can."""
        length, limits = len(request.prompt_ids), self._limits
        if length > limits.max_input_tokens:
            # It may be longer than any step's prefill, and would stop the queue for ever.
            return f"{length} prompt tokens are over the limit of {limits.max_input_tokens}"
        if length == 0 or length + request.max_new_tokens > limits.sequence_length:
            limit = limits.sequence_length
            return f"{length} prompt and {request.max_new_tokens} new tokens do not fit a slot of {limit}"
        if request.adapter is not None and request.adapter not in self._programs.capabilities.adapters:
            return f"the adapter {request.adapter!r} is not loaded"
        return None

    def _adapter_number(self, request: EngineRequest) -> int:
        return 0 if request.adapter is None else 1 + self._programs.capabilities.adapters.index(request.adapter)

    def cancel(self, request_id: str) -> list[Event]:
        """End a request now and free its slot. Unknown ids give no event."""
        sequence = self._sequences.get(request_id)
        return [] if sequence is None else [self._end(sequence, "cancelled")]

    def cancel_all(self) -> list[Event]:
        """End every request now."""
        return [self._end(sequence, "cancelled") for sequence in list(self._sequences.values())]

    def step(self) -> StepOutcome:
        """Plan, run and commit once. Needs `has_work`. Raises `DeviceLostError` when steps keep failing."""
        began = time.monotonic()
        plan, placed = self._scheduler.plan()
        events: list[Event] = [
            StartEvent(sequence.request.request_id, began, placement.num_reused) for sequence, placement in placed
        ]
        by_slot = {sequence.slot: sequence for sequence in self._scheduler.slots.occupants()}
        waiting_for = self._waiting_for()
        planned = time.monotonic()
        result = self._run(plan)
        ran_s = time.monotonic() - planned
        events += self._fail(plan, by_slot) if result is None else self._commit(plan, result, by_slot)
        choose_s = 0.0 if result is None else min(ran_s, result.choosing_s)
        stats = replace(
            self._stats(plan, len(placed), time.monotonic() - began),
            began_s=began,
            plan_s=planned - began,
            forward_s=ran_s - choose_s,
            choose_s=choose_s,
            num_running=len(by_slot) - len(placed),
            num_chosen=0 if result is None else len(result.choices),
            waiting_for=waiting_for,
            is_failed=result is None,
        )
        return StepOutcome(tuple(events), stats)

    def _waiting_for(self) -> WaitingFor:
        """What the first request in the queue, and so all of them, were not given by the plan just made."""
        if not self._scheduler.num_waiting:
            return ""
        return "prefill" if self._scheduler.slots.num_free else "slots"

    def _run(self, plan: StepPlan) -> StepResult | None:
        try:
            result = self._programs.run(plan)
        except Exception as error:
            self._num_failed_steps += 1
            _log.exception("a step with %d chunks failed", len(plan.chunks))
            if self._num_failed_steps >= MAX_FAILED_STEPS:
                raise DeviceLostError(f"{self._num_failed_steps} steps in a row failed: {error}") from error
            return None
        self._num_failed_steps = 0
        return result

    def _fail(self, plan: StepPlan, by_slot: dict[int, Sequence]) -> list[Event]:
        """What a failed step left in the slots is unknown, so nothing of it is reused.

        A slot may have a share in the plan and no chunk yet: its prefix was not copied for certain either.
        """
        slots = [chunk.slot for chunk in plan.chunks] + [share.target for share in plan.shares]
        return [
            self._drop(by_slot[slot], "the step that held this request failed on the device")
            for slot in dict.fromkeys(slots)
        ]

    def _commit(self, plan: StepPlan, result: StepResult, by_slot: dict[int, Sequence]) -> list[Event]:
        events: list[Event] = []
        choices, scores = iter(result.choices), iter(result.scores)
        for chunk in plan.chunks:
            sequence = by_slot[chunk.slot]
            self._scheduler.advance(sequence, len(chunk.token_ids))
            if chunk.scored_ids:
                sequence.prompt_logprobs += next(scores)
            if chunk.wants_logits:
                events += _prompt_event(sequence)
                events += self._take(sequence, next(choices))
        return events

    def _take(self, sequence: Sequence, choice: TokenChoice | None) -> list[Event]:
        """Append a chosen token; end the sequence when it is the last."""
        if choice is None:
            return [self._drop(sequence, sequence.failure)]
        sequence.token_ids.append(choice.token_id)
        token = TokenEvent(sequence.request.request_id, choice.token_id, choice.logprob, choice.top)
        try:
            reason = _finish_reason(sequence, choice.token_id)
        except GenerationError as error:
            return [token, self._drop(sequence, str(error))]
        return [token] if reason is None else [token, self._end(sequence, reason)]

    def _end(self, sequence: Sequence, reason: FinishReason) -> FinishEvent:
        self._remove(sequence)
        return FinishEvent(sequence.request.request_id, reason)

    def _drop(self, sequence: Sequence, message: str) -> FailEvent:
        self._remove(sequence, keep_prefix=False)
        return FailEvent(sequence.request.request_id, message)

    def _remove(self, sequence: Sequence, *, keep_prefix: bool = True) -> None:
        del self._sequences[sequence.request.request_id]
        if not sequence.is_held:
            self._scheduler.remove(sequence, keep_prefix=keep_prefix)

    def idle_stats(self) -> StepStats:
        """The queue and the slots as they are, without a step: what a cancel has changed."""
        return self._stats(StepPlan((), (), ()), 0, 0.0)

    def _stats(self, plan: StepPlan, num_started: int, duration_s: float) -> StepStats:
        num_tokens = sum(len(chunk.token_ids) for chunk in plan.chunks)
        num_decodes = sum(chunk.start > 0 and len(chunk.token_ids) == 1 for chunk in plan.chunks)
        return StepStats(
            duration_s=duration_s,
            num_prefill_tokens=num_tokens - num_decodes,
            num_decode_tokens=num_decodes,
            num_slots_used=self._scheduler.slots.num_used,
            num_waiting=self._scheduler.num_waiting,
            num_started=num_started,
        )

    def check(self) -> None:
        """Assert that requests, queue and slots agree."""
        self._scheduler.check()
        placed = self._scheduler.num_waiting + self._scheduler.slots.num_used
        open_ = sum(not sequence.is_held for sequence in self._sequences.values())
        assert placed == open_, f"{open_} open requests, {placed} queued or in slots"


def _prompt_event(sequence: Sequence) -> list[Event]:
    """The prompt's log-probabilities, once, before the first token."""
    if not sequence.request.wants_prompt_logprobs or sequence.num_generated:
        return []
    return [PromptEvent(sequence.request.request_id, tuple(sequence.prompt_logprobs))]


def _finish_reason(sequence: Sequence, token_id: int) -> FinishReason | None:
    """Why a sequence ends with its newest token, if it does. Raises `GenerationError` if its grammar cannot go on."""
    request = sequence.request
    if token_id in request.eos_token_ids:
        return "eos_token"
    if sequence.constraint is not None:
        sequence.constraint.accept(token_id)
        if not request.eos_token_ids and sequence.constraint.is_complete:
            # There is no end token to choose next.
            return "eos_token"
    return "length" if sequence.num_generated >= request.max_new_tokens else None
