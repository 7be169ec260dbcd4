"""Steps in a process of their own: whatever it dies of, the report goes on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ranvier.selfcheck import children
from ranvier.selfcheck.children import carry_out
from ranvier.selfcheck.orders import CheckOrder
from ranvier.selfcheck.outcome import Outcome

STEPS = ("first", "dies", "raises", "last")


def outcomes(how: str, steps: tuple[str, ...] = STEPS) -> list[Outcome]:
    found: list[Outcome] = []
    order = CheckOrder(job="devices", steps=steps, folder="unused")
    carry_out(order, os.environ, found.append, (sys.executable, str(Path(__file__).with_name("dying_child.py")), how))
    return found


def statuses(found: list[Outcome]) -> list[tuple[str, str]]:
    return [(each.name, each.status) for each in found]


def test_a_process_that_dies_is_the_failure_of_its_step_and_the_others_are_done_by_the_next() -> None:
    found = outcomes("in a step")
    assert statuses(found) == [
        ("load", "passed"),
        ("first", "passed"),
        ("dies", "failed"),
        ("raises", "failed"),
        ("last", "passed"),
    ]
    assert found[2].lines[0] == "the process was ended by SIGABRT; the end of what it wrote:"
    assert "NRT_EXEC_HW_ERR in a step" in found[2].lines[1]


def test_an_error_of_a_step_is_shown_behind_what_it_has_said() -> None:
    found = outcomes("in a step", ("raises", "last"))
    assert found[1].lines == ("so far so good", "ValueError: a step's own error")
    assert found[2].status == "passed"


def test_nothing_is_begun_where_nothing_could_be_loaded() -> None:
    found = outcomes("cannot load")
    assert statuses(found) == [("load", "failed"), *((name, "skipped") for name in STEPS)]
    assert found[0].lines == ("RuntimeError: nrt_init failed",)


def test_a_process_that_dies_while_it_loads_is_started_once() -> None:
    found = outcomes("dies while loading")
    assert statuses(found) == [("load", "failed"), *((name, "skipped") for name in STEPS)]
    assert found[0].lines == (
        "the process ended with code 70; the end of what it wrote:",
        "  NRT_EXEC_HW_ERR while loading",
    )


def test_a_process_that_dies_after_its_last_step_is_told() -> None:
    assert statuses(outcomes("dies at its end", ("first",)))[-1] == ("exit", "failed")


def test_a_process_that_tells_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "SILENCE_S", 0.1)
    found: list[Outcome] = []
    order = CheckOrder(job="devices", steps=("first",), folder="unused")
    hangs = (sys.executable, "-c", "import threading; threading.Event().wait(60)")
    carry_out(order, os.environ, found.append, hangs)
    assert statuses(found) == [("load", "failed"), ("first", "skipped")]
    assert "SIGKILL" in found[0].lines[0]
