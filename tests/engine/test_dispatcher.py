"""When an engine is taken for stuck. Time is what the test says."""

from __future__ import annotations

import pytest

from ranvier.core import FinishEvent, TokenEvent
from ranvier.core.dispatch import STALL_S, Dispatcher


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_idle_engine_is_never_stuck(clock: Clock) -> None:
    dispatcher = Dispatcher(clock)
    clock.now += 10 * STALL_S
    assert not dispatcher.is_stalled
    dispatcher.open("r", lambda event: None)
    assert not dispatcher.is_stalled


def test_silence_with_an_open_request_is_stuck_and_a_word_ends_it(clock: Clock) -> None:
    dispatcher = Dispatcher(clock)
    dispatcher.open("r", lambda event: None)
    clock.now += STALL_S
    assert not dispatcher.is_stalled
    clock.now += 1
    assert dispatcher.is_stalled
    dispatcher.dispatch([TokenEvent("r", 1, -0.5, ())])
    assert not dispatcher.is_stalled


def test_a_second_request_does_not_hide_that_the_first_is_stuck(clock: Clock) -> None:
    dispatcher = Dispatcher(clock)
    dispatcher.open("first", lambda event: None)
    clock.now += STALL_S + 1
    dispatcher.open("second", lambda event: None)
    assert dispatcher.is_stalled


def test_the_end_of_the_last_request_is_the_end_of_the_watch(clock: Clock) -> None:
    dispatcher = Dispatcher(clock)
    dispatcher.open("r", lambda event: None)
    dispatcher.dispatch([FinishEvent("r", "length")])
    clock.now += 2 * STALL_S
    assert not dispatcher.is_stalled
