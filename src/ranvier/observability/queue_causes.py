"""Why a request waited, as far as it can be known.

The queue is first in, first out, so what holds up its first request holds up all of them, and a plan that leaves
requests waiting has one reason for all. A request's cause is the strongest reason of the plans it was left by:

* `slots`: at some plan no slot was free;
* `prefill`: slots were always free, but at some plan the step had no room left for its prompt;
* `step`: no plan left it: it waited for the step under way, or for its grammar to be compiled.
"""

from __future__ import annotations

from typing import Literal

from ranvier.observability.series import Histogram

QueueCause = Literal["step", "slots", "prefill"]


class QueueCauses:
    """Remembers the newest plan of each kind that left requests waiting, and judges requests by it.

    Requests are to be judged when they start, before the figures of their own step are told: later plans would cover
    those that they were left by. All moments are of `time.monotonic()`, which processes of one machine share.
    """

    def __init__(self, durations: Histogram) -> None:
        self._last = {"slots": -1.0, "prefill": -1.0}
        self._series = {cause: durations.child(cause=cause) for cause in ("step", "slots", "prefill")}

    def left_waiting(self, cause: Literal["slots", "prefill"], at_s: float) -> None:
        """A plan made at `at_s` left requests in the queue."""
        self._last[cause] = at_s

    def cause_since(self, queued_s: float) -> QueueCause:
        """What a request that has waited since `queued_s` waited for."""
        if self._last["slots"] >= queued_s:
            return "slots"
        return "prefill" if self._last["prefill"] >= queued_s else "step"

    def started(self, queued_s: float, started_s: float) -> QueueCause:
        """Count the wait of a request that has just started. Returns its cause."""
        cause = self.cause_since(queued_s)
        self._series[cause].observe(max(0.0, started_s - queued_s))
        return cause
