"""TGI's `x-…` headers."""

from __future__ import annotations

from ranvier.service import Finished


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def stream(compute_type: str, num_characters: int) -> dict[str, str]:
    """What is known before the first token."""
    return {"x-compute-type": compute_type, "x-compute-characters": str(num_characters)}


def generation(compute_type: str, num_characters: int, finished: Finished) -> dict[str, str]:
    """Everything, for a whole reply; times in milliseconds but for `x-compute-time` in seconds."""
    timings, num_tokens = finished.timings, len(finished.tokens)
    return {
        **stream(compute_type, num_characters),
        # Never with an exponent, which `str` would give to a very short time.
        "x-compute-time": f"{timings.total_s:.9f}",
        "x-total-time": _milliseconds(timings.total_s),
        "x-validation-time": _milliseconds(timings.validation_s),
        "x-queue-time": _milliseconds(timings.queue_s),
        "x-inference-time": _milliseconds(timings.inference_s),
        "x-time-per-token": _milliseconds(timings.inference_s / num_tokens),
        "x-prompt-tokens": str(finished.num_input),
        "x-generated-tokens": str(num_tokens),
    }
