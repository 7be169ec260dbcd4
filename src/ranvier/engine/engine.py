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
from dataclasses import dataclass

from ranvier.core import (
    EngineRequest,
    Event,
    FailEvent,
    FinishEvent,
    FinishReason,
    Limits,
    StartEvent,
    StepPlan,
    StepResult,
    StepStats,
    TokenChoice,
    TokenEvent,
)
from ranvier.engine.scheduler import Scheduler
from ranvier.engine.sequence import Sequence
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
        """Queue a request. Returns its `FailEvent` at once when it is outside the limits, else nothing."""
        refusal = self._refusal(request)
        if refusal is not None:
            return [FailEvent(request.request_id, refusal)]
        sequence = Sequence(request)
        self._sequences[request.request_id] = sequence
        self._scheduler.enqueue(sequence)
        return []

    def _refusal(self, request: EngineRequest) -> str | None:
        """Why a request can never be served; None when it can."""
        length, limits = len(request.prompt_ids), self._limits
        if length > limits.max_input_tokens:
            # It may be longer than any step's prefill, and would stop the queue for ever.
            return f"{length} prompt tokens are over the limit of {limits.max_input_tokens}"
        if length == 0 or length + request.max_new_tokens > limits.sequence_length:
            limit = limits.sequence_length
            return f"{length} prompt and {request.max_new_tokens} new tokens do not fit a slot of {limit}"
        return None

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
        result = self._run(plan)
        events += self._fail(plan, by_slot) if result is None else self._commit(plan, result, by_slot)
        return StepOutcome(tuple(events), self._stats(plan, len(placed), time.monotonic() - began))

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
        choices = iter(result.choices)
        for chunk in plan.chunks:
            sequence = by_slot[chunk.slot]
            self._scheduler.advance(sequence, len(chunk.token_ids))
            if chunk.wants_logits:
                events += self._take(sequence, next(choices))
        return events

    def _take(self, sequence: Sequence, choice: TokenChoice | None) -> list[Event]:
        """Append a chosen token; end the sequence when it is the last."""
        if choice is None:
            return [self._drop(sequence, "the model gave logits that are not finite")]
        request = sequence.request
        sequence.token_ids.append(choice.token_id)
        token = TokenEvent(request.request_id, choice.token_id, choice.logprob, choice.top)
        if choice.token_id in request.eos_token_ids:
            return [token, self._end(sequence, "eos_token")]
        if sequence.num_generated >= request.max_new_tokens:
            return [token, self._end(sequence, "length")]
        return [token]

    def _end(self, sequence: Sequence, reason: FinishReason) -> FinishEvent:
        del self._sequences[sequence.request.request_id]
        self._scheduler.remove(sequence)
        return FinishEvent(sequence.request.request_id, reason)

    def _drop(self, sequence: Sequence, message: str) -> FailEvent:
        del self._sequences[sequence.request.request_id]
        self._scheduler.remove(sequence, keep_prefix=False)
        return FailEvent(sequence.request.request_id, message)

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
        held = self._scheduler.num_waiting + self._scheduler.slots.num_used
        assert held == len(self._sequences), f"{len(self._sequences)} open requests, {held} queued or in slots"
