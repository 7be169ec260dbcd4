"""Rules that chat and completions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ranvier.errors import ValidationError


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
