"""The thread that owns an engine.

Prompts and tokens are those of `test_engine`: [5, 6, 7] gives 55, 34, 49, 15. Token 13 is a fault.
"""

from __future__ import annotations

import queue
import threading

import pytest
from engine_helpers import Gated, events_of, make_engine, make_limits, tokens_of

from ranvier.core import Event, FailEvent, FinishEvent, StartEvent, StepStats, is_terminal
from ranvier.engine import Engine, EngineLoop
from ranvier.targets import Programs
from scripted_requests import GUARD_S, make_request, scripted_tokens

P, P_TOKENS = [5, 6, 7], [55, 34, 49, 15]
FAULT = 13


class Watched:
    """A loop whose deliveries and losses end up in queues; stops it at the end of the `with` block."""

    def __init__(self, engine: Engine) -> None:
        self.deliveries: queue.Queue[tuple[list[Event], StepStats | None]] = queue.Queue()
        self.losses: queue.Queue[str] = queue.Queue()
        self.loop = EngineLoop(engine, self._deliver, self.losses.put)
        self.events: list[Event] = []

    def _deliver(self, events: list[Event], stats: StepStats | None) -> None:
        self.deliveries.put((events, stats))

    def __enter__(self) -> Watched:
        self.loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()

    def until_ended(self, num_requests: int) -> list[Event]:
        """All events until so many requests in total have ended."""
        while sum(map(is_terminal, self.events)) < num_requests:
            self.events += self.deliveries.get(timeout=GUARD_S)[0]
        return self.events


def gated_engine(batch_size: int = 2) -> tuple[Engine, Gated]:
    made: list[Gated] = []

    def wrap(programs: Programs) -> Programs:
        made.append(Gated(programs))
        return made[0]

    engine = make_engine(limits=make_limits(batch_size=batch_size), wrap=wrap)
    return engine, made[0]


def test_a_submitted_request_is_worked_on_until_it_ends() -> None:
    with Watched(make_engine()) as watched:
        watched.loop.submit(make_request("p", P, 4))
        events = watched.until_ended(1)
    assert isinstance(events[0], StartEvent)
    assert tokens_of(events, "p") == P_TOKENS
    assert events[-1] == FinishEvent("p", "length")


def test_the_loop_waits_for_the_next_request_when_there_is_none() -> None:
    with Watched(make_engine()) as watched:
        for number in range(3):
            watched.loop.submit(make_request(str(number), P, 2))
            watched.until_ended(number + 1)
        assert watched.deliveries.empty()


def test_each_step_is_delivered_once_with_its_figures() -> None:
    with Watched(make_engine()) as watched:
        watched.loop.submit(make_request("p", P, 3))
        deliveries = [watched.deliveries.get(timeout=GUARD_S) for _ in range(3)]
    assert [len(events) for events, _ in deliveries] == [2, 1, 2]
    figures = [(stats.num_prefill_tokens, stats.num_decode_tokens) for _, stats in deliveries if stats is not None]
    assert figures == [(3, 0), (0, 1), (0, 1)]


def test_a_request_submitted_during_a_step_joins_the_next_one() -> None:
    engine, gate = gated_engine()
    with Watched(engine) as watched:
        watched.loop.submit(make_request("p", P, 2))
        gate.wait_for_run()
        watched.loop.submit(make_request("q", P, 1))
        gate.permit(1)
        assert tokens_of(watched.deliveries.get(timeout=GUARD_S)[0], "p") == [55]
        gate.permit(1)
        second, _ = watched.deliveries.get(timeout=GUARD_S)
    assert (tokens_of(second, "p"), tokens_of(second, "q")) == ([34], [55])


def test_a_cancel_takes_effect_before_the_next_step() -> None:
    engine, gate = gated_engine()
    with Watched(engine) as watched:
        watched.loop.submit(make_request("p", P, 4))
        gate.wait_for_run()
        watched.loop.cancel("p")
        gate.permit(1)
        events = watched.until_ended(1)
    assert tokens_of(events, "p") == [55]
    assert events[-1] == FinishEvent("p", "cancelled")


def test_cancel_all_ends_every_request_before_the_next_step() -> None:
    engine, gate = gated_engine(batch_size=1)
    with Watched(engine) as watched:
        for name in ("p", "q"):
            watched.loop.submit(make_request(name, P, 4))
        gate.wait_for_run()
        watched.loop.cancel_all()
        gate.permit(1)
        events = watched.until_ended(2)
        watched.loop.submit(make_request("r", P, 1))
        gate.permit(1)
        assert tokens_of(watched.until_ended(3), "r") == [55]
    assert [event for event in events if is_terminal(event)][:2] == [
        FinishEvent("p", "cancelled"),
        FinishEvent("q", "cancelled"),
    ]


def test_events_of_commands_come_without_step_figures() -> None:
    with Watched(make_engine()) as watched:
        watched.loop.submit(make_request("long", P, 1000))
        events, stats = watched.deliveries.get(timeout=GUARD_S)
    assert events == [FailEvent("long", "3 prompt and 1000 new tokens do not fit a slot of 32")]
    assert stats is not None and not stats.is_step


def test_many_threads_may_submit_and_cancel_at_once() -> None:
    requests = [[make_request(f"{t}/{n}", [t + 1, n + 1], 4) for n in range(20)] for t in range(4)]
    with Watched(make_engine(limits=make_limits(batch_size=4))) as watched:

        def work(number: int) -> None:
            for n, request in enumerate(requests[number]):
                watched.loop.submit(request)
                watched.loop.cancel(f"{number - 1}/{n}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD_S)
        events = watched.until_ended(80)
        assert watched.deliveries.empty()
    for request in (request for group in requests for request in group):
        own = events_of(events, request.request_id)
        assert [is_terminal(event) for event in own] == [False] * (len(own) - 1) + [True]
        tokens = tokens_of(own, request.request_id)
        assert tokens == scripted_tokens(request.prompt_ids, 4)[: len(tokens)]


# Stopping


def test_stop_lets_the_step_it_is_in_end_and_then_nothing_follows() -> None:
    engine, gate = gated_engine()
    with Watched(engine) as watched:
        watched.loop.submit(make_request("p", P, 4))
        gate.wait_for_run()
        stopping = threading.Thread(target=watched.loop.stop)
        stopping.start()
        gate.permit(1)
        stopping.join(GUARD_S)
        assert not stopping.is_alive()
        events, _ = watched.deliveries.get(timeout=GUARD_S)
        assert tokens_of(events, "p") == [55]
        watched.loop.submit(make_request("late", P, 1))
    assert watched.deliveries.empty()
    assert watched.losses.empty()


def test_stop_ends_a_loop_without_work() -> None:
    with Watched(make_engine()) as watched:
        pass
    assert watched.deliveries.empty()


def test_stop_may_come_before_the_start_and_more_than_once() -> None:
    watched = Watched(make_engine())
    watched.loop.stop()
    with watched:
        watched.loop.submit(make_request("p", P, 1))
    watched.loop.stop()
    assert watched.deliveries.empty()


# Losing the device


def test_a_lost_device_is_reported_once_and_ends_the_thread() -> None:
    with Watched(make_engine(fault_token=FAULT)) as watched:
        for number in range(3):
            watched.loop.submit(make_request(str(number), [FAULT], 1))
            if number < 2:
                watched.until_ended(number + 1)
        assert watched.losses.get(timeout=GUARD_S) == "3 steps in a row failed: scripted fault at token 13"
    assert watched.losses.empty()
    assert [event for event in watched.events if is_terminal(event)] == [
        FailEvent(str(number), "the step that held this request failed on the device") for number in range(2)
    ]


def test_any_other_error_ends_the_thread_too_and_is_reported_with_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    losses: queue.Queue[str] = queue.Queue()

    def deliver(events: list[Event], stats: StepStats | None) -> None:
        raise KeyError("sink")

    loop = EngineLoop(make_engine(), deliver, losses.put)
    loop.start()
    loop.submit(make_request("p", P, 1))
    assert losses.get(timeout=GUARD_S) == "KeyError: 'sink'"
    loop.stop()
    assert losses.empty()
    assert [record.message for record in caplog.records] == ["the engine's thread ended"]


def test_after_the_last_request_is_cancelled_no_slot_counts_as_used() -> None:
    """Once a cancel came without figures, and the gauges showed a slot in use for as long as nobody asked anything."""
    with Watched(make_engine()) as watched:
        watched.loop.submit(make_request("a", P, max_new_tokens=20))
        while not any(isinstance(event, StartEvent) for event in watched.events):
            watched.events += watched.deliveries.get(timeout=GUARD_S)[0]
        watched.loop.cancel("a")
        stats: list[StepStats | None] = []
        while not any(is_terminal(event) for event in watched.events):
            events, last = watched.deliveries.get(timeout=GUARD_S)
            watched.events += events
            stats.append(last)
        final = stats[-1]
        assert final is not None
        assert (final.num_slots_used, final.num_waiting) == (0, 0)
