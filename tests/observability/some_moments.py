"""The moments of a request, to the test's taste."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SomeMoments:
    """By default 1 ms of validation, 2 ms in the queue, 4 ms to the first token and 8 ms more."""

    arrived_s: float
    queued_s: float
    started_s: float
    first_token_s: float
    done_s: float

    @property
    def validation_s(self) -> float:
        return self.queued_s - self.arrived_s

    @property
    def queue_s(self) -> float:
        return max(0.0, self.started_s - self.queued_s)

    @property
    def inference_s(self) -> float:
        return self.done_s - self.started_s

    @property
    def total_s(self) -> float:
        return self.done_s - self.arrived_s


def some_moments(arrived_s: float | None = None, **later_by: float) -> SomeMoments:
    """Moments from `arrived_s` on, now by default; `later_by` replaces the seconds of single moments after it."""
    first = time.monotonic() if arrived_s is None else arrived_s
    spans = {"queued_s": 0.001, "started_s": 0.003, "first_token_s": 0.007, "done_s": 0.015, **later_by}
    return SomeMoments(arrived_s=first, **{name: first + span for name, span in spans.items()})
