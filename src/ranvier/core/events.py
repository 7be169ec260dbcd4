"""What the engine says about a request. Each request ends in exactly one `FinishEvent` or `FailEvent`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason = Literal["length", "eos_token", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token id with its natural-log probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class StartEvent:
    """The request left the queue for a slot. `at_s` is `time.monotonic()`, the same clock in every process here.

    `num_reused_tokens` prompt tokens were found in the KV cache and were not computed again.
    """

    request_id: str
    at_s: float
    num_reused_tokens: int


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """How likely each prompt token was after those before it; the first has none, so there is one fewer.

    Natural logarithms of the model's own distribution, before any logits processor. Comes before the first token.
    """

    request_id: str
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token; `logprob` and `top` are taken after all logits processors."""

    request_id: str
    token_id: int
    logprob: float
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class FinishEvent:
    """The last event of a request that ended well, or was cancelled."""

    request_id: str
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class FailEvent:
    """The last event of a request that could not go on; `message` is for the client."""

    request_id: str
    message: str


Event: TypeAlias = StartEvent | PromptEvent | TokenEvent | FinishEvent | FailEvent


def is_terminal(event: Event) -> bool:
    """Whether this is the one event that ends its request."""
    return isinstance(event, (FinishEvent, FailEvent))


WaitingFor = Literal["", "slots", "prefill"]
"""Why a plan left requests in the queue: no free slot, or no room for their prompts in the step; "" for nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What one step did, for metrics. Seconds and tokens; the queue and slots as they are after the step.

    * Without a step, after a cancel, only the queue and the slots count: no tokens, no duration.
    * `began_s` is `time.monotonic()` when the plan was made. Of `duration_s`, `plan_s` went into the plan, `forward_s`
      into the target's run and `choose_s` into choosing tokens, as far as the target tells these two apart.
    * `num_running` slots were in use before the `num_started` requests got theirs. `num_chosen` tokens were chosen.
    * `num_padded_tokens` went through the model for nobody. `is_failed`: the run raised, and its requests ended.
    """

    duration_s: float
    num_prefill_tokens: int
    num_decode_tokens: int
    num_slots_used: int
    num_waiting: int
    num_started: int
    began_s: float = 0.0
    plan_s: float = 0.0
    forward_s: float = 0.0
    choose_s: float = 0.0
    num_running: int = 0
    num_chosen: int = 0
    num_padded_tokens: int = 0
    waiting_for: WaitingFor = ""
    is_failed: bool = False

    @property
    def is_step(self) -> bool:
        """Whether tokens went through the model."""
        return self.num_prefill_tokens + self.num_decode_tokens > 0

    @property
    def commit_s(self) -> float:
        """Seconds that remain: appending tokens and ending what is complete."""
        return max(0.0, self.duration_s - self.plan_s - self.forward_s - self.choose_s)
