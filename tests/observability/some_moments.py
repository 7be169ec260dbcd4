"""The moments of a request, to the test's taste."""

from __future__ import annotations

import time

from ranvier.service import Timings


def some_moments(arrived_s: float | None = None, **later_by: float) -> Timings:
    """Moments from `arrived_s` on, now by default; `later_by` replaces the seconds of single moments after it.

    By default 1 ms of validation, 2 ms in the queue, 4 ms to the first token and 8 ms more.
    """
    first = time.monotonic() if arrived_s is None else arrived_s
    spans = {"queued_s": 0.001, "started_s": 0.003, "first_token_s": 0.007, "done_s": 0.015, **later_by}
    return Timings(arrived_s=first, **{name: first + span for name, span in spans.items()})
