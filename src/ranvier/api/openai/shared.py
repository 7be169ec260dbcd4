"""Rules that chat and completions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ranvier.errors import ValidationError
from ranvier.service import GenerateParameters

if TYPE_CHECKING:
    from ranvier.api.openai.chat_wire import ChatRequest
    from ranvier.api.openai.completions_wire import CompletionRequest


def sampling_parameters(body: ChatRequest | CompletionRequest) -> GenerateParameters:
    """How tokens are drawn: temperature 0 is greedy, anything else samples; a `top_p` of 1 is off.

    Raises `ValidationError` for a `logit_bias` that would change something.
    """
    refuse_logit_bias(body.logit_bias)
    is_greedy = body.temperature == 0
    return GenerateParameters(
        do_sample=not is_greedy,
        is_greedy=is_greedy,
        temperature=None if is_greedy else body.temperature,
        top_p=None if body.top_p == 1 else body.top_p,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        repetition_penalty=body.repetition_penalty,
        stop=stop_strings(body.stop),
        seed=body.seed,
    )


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """One stop string, several, or none."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def num_choices(n: int | None) -> int:
    """How many answers are wanted. Raises `ValidationError` for none."""
    if n == 0:
        raise ValidationError("`n` must be strictly positive")
    return n or 1


def refuse_logit_bias(bias: Any) -> None:
    """Raise `ValidationError` for a bias that would change something."""
    values = bias.values() if isinstance(bias, dict) else bias or ()
    if any(values):
        raise ValidationError("`logit_bias` is not supported; leave it out")
