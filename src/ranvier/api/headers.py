"""TGI's `x-…` headers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from ranvier.service import Finished


def _milliseconds(seconds: Iterable[float]) -> str:
    return str(sum(int(each * 1000) for each in seconds))


def stream(compute_type: str, num_characters: int) -> dict[str, str]:
    """What is known before the first token."""
    return {"x-compute-type": compute_type, "x-compute-characters": str(num_characters)}


def generation(compute_type: str, num_characters: int, answers: Sequence[Sequence[Finished]]) -> dict[str, str]:
    """Everything, for a whole reply with the `answers` to each of its prompts; sums over all of them.

    A prompt with several answers counts once. Milliseconds but for `x-compute-time` in seconds.
    """
    sequences = list(chain.from_iterable(answers))
    timings = [each.timings for each in sequences]
    return {
        **stream(compute_type, num_characters),
        # Never with an exponent, which `str` would give to a very short time.
        "x-compute-time": f"{sum(each.total_s for each in timings):.9f}",
        "x-total-time": _milliseconds(each.total_s for each in timings),
        "x-validation-time": _milliseconds(each.validation_s for each in timings),
        "x-queue-time": _milliseconds(each.queue_s for each in timings),
        "x-inference-time": _milliseconds(each.inference_s for each in timings),
        "x-time-per-token": _milliseconds(each.timings.inference_s / len(each.tokens) for each in sequences),
        "x-prompt-tokens": str(sum(each[0].num_input for each in answers)),
        "x-generated-tokens": str(sum(len(each.tokens) for each in sequences)),
    }
