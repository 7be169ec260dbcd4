"""When a request did what, and the times that TGI tells about it."""

from __future__ import annotations

from typing import Protocol

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


class Moments(Protocol):
    """Moments of `time.monotonic()` in this order, in seconds, and the spans between them."""

    @property
    def arrived_s(self) -> float:
        """The request came."""

    @property
    def queued_s(self) -> float:
        """It was valid, and went to the engine."""

    @property
    def started_s(self) -> float:
        """It left the queue for a slot."""

    @property
    def first_token_s(self) -> float:
        """Its first token came."""

    @property
    def done_s(self) -> float:
        """Its last token came."""

    @property
    def validation_s(self) -> float:
        """From arrival to the queue."""

    @property
    def queue_s(self) -> float:
        """In the queue, 0 or more."""

    @property
    def inference_s(self) -> float:
        """From leaving the queue to the end."""

    @property
    def total_s(self) -> float:
        """From arrival to the end."""


def timing_fields(moments: Moments, num_tokens: int) -> dict[str, str]:
    """TGI's five times of a request that generated `num_tokens` >= 1, under its names and in its notation."""
    return {
        "total_time": duration_text(moments.total_s),
        "validation_time": duration_text(moments.validation_s),
        "queue_time": duration_text(moments.queue_s),
        "inference_time": duration_text(moments.inference_s),
        "time_per_token": duration_text(moments.inference_s / num_tokens),
    }


def duration_text(seconds: float) -> str:
    """A duration >= 0 to the nanosecond in the notation of Rust's `Debug`, which TGI's logs and spans have.

    >>> duration_text(1.5), duration_text(0.0123), duration_text(0.00000425), duration_text(0)
    ('1.5s', '12.3ms', '4.25µs', '0ns')
    """
    nanoseconds = round(seconds * 1e9)
    size, unit = next((each for each in _UNITS if nanoseconds >= each[0]), _UNITS[-1])
    whole, rest = divmod(nanoseconds, size)
    decimals = f"{rest:0{len(str(size)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{decimals}{unit}" if decimals else f"{whole}{unit}"
