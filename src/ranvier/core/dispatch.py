"""Open requests of an engine client and where their events go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ranvier.core.events import Event, FailEvent, is_terminal
from ranvier.core.ports import EventSink

STALL_S = 120.0
"""Seconds of silence with requests open after which an engine is taken for stuck: longer than any step should take."""


class Dispatcher:
    """Owner of the open requests. Used on the event loop only.

    Guarantees that each sink gets exactly one terminal event: after it the sink is forgotten, and `fail_all` gives
    one to those that have none yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sinks: dict[str, EventSink] = {}
        self._clock = clock
        self._heard_s = clock()

    def open(self, request_id: str, sink: EventSink) -> None:
        """Send a request's events to `sink` from now on. The id must be new."""
        assert request_id not in self._sinks, f"request id {request_id} is in use"
        if not self._sinks:
            self._heard_s = self._clock()
        self._sinks[request_id] = sink

    def dispatch(self, events: Iterable[Event]) -> None:
        """Hand events to their sinks; those of unknown requests are dropped. Call it for each step, events or not."""
        self._heard_s = self._clock()
        for event in events:
            sink = self._sinks.get(event.request_id)
            if sink is None:
                continue
            if is_terminal(event):
                del self._sinks[event.request_id]
            sink(event)

    def fail_all(self, message: str) -> None:
        """End every open request with the same reason."""
        self.dispatch([FailEvent(request_id, message) for request_id in self._sinks])

    @property
    def is_stalled(self) -> bool:
        """Whether requests are open and the engine has said nothing for `STALL_S`."""
        return bool(self._sinks) and self._clock() - self._heard_s > STALL_S

    @property
    def num_open(self) -> int:
        """Requests without a terminal event."""
        return len(self._sinks)
