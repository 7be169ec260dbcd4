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


Event: TypeAlias = StartEvent | TokenEvent | FinishEvent | FailEvent


def is_terminal(event: Event) -> bool:
    """Whether this is the one event that ends its request."""
    return isinstance(event, (FinishEvent, FailEvent))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What one step did, for metrics. Seconds and tokens; the queue and slots as they are after the step.

    Without a step, after a cancel, only the queue and the slots count: no tokens, no duration.
    """

    duration_s: float
    num_prefill_tokens: int
    num_decode_tokens: int
    num_slots_used: int
    num_waiting: int
    num_started: int

    @property
    def is_step(self) -> bool:
        """Whether tokens went through the model."""
        return self.num_prefill_tokens + self.num_decode_tokens > 0
