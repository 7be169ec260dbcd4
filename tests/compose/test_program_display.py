"""Progress of an export: live on a terminal, lines of JSON or log records elsewhere."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any

import pytest

from ranvier.compose.exporting import Reporter
from ranvier.export.program_runs import ProgramProgress

SHOWN, HIDDEN = "\x1b[?25h", "\x1b[?25l"
"""How a terminal is told to show or hide its cursor."""


def progress(state: str, name: str, done: int, **changes: Any) -> ProgramProgress:
    given: dict[str, Any] = {
        "job": "compile",
        "total": 2,
        "elapsed_s": 12.3,
        "state": state,
        "name": name,
        "done": done,
    }
    return ProgramProgress(**given | changes)


STARTED = progress("started", "decode_128", 0)
EXPECTED = progress("started", "decode_256", 1, expected_s=31.4)
FINISHED = progress("finished", "decode_128", 1, seconds=31.4)
LAST = progress("finished", "decode_256", 2, seconds=60.06)
FAILED = progress("failed", "decode_256", 1, reason="ValueError: [bold]odd[/bold]")


class Terminal:
    """A display on a terminal that is a string."""

    def __init__(self) -> None:
        console = pytest.importorskip("rich.console", reason="rich is not installed: pip install 'ranvier[neuron]'")
        from ranvier.compose.program_display import ProgramDisplay

        self._file = io.StringIO()
        self.display = ProgramDisplay(console.Console(file=self._file, force_terminal=True, width=120, height=20))

    def show(self, *progress: ProgramProgress) -> None:
        for each in progress:
            self.display.show(each)

    @property
    def raw(self) -> str:
        return self._file.getvalue()

    @property
    def lines(self) -> list[str]:
        """What is seen, without colours and movements of the cursor."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw))]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


# On a terminal


def test_programs_are_named_with_counts_and_what_they_took(terminal: Terminal) -> None:
    terminal.show(STARTED, FINISHED, EXPECTED, LAST)

    assert "compiling 1/2 decode_128 31.4 s" in terminal.lines
    assert "compiling 2/2 decode_256 60.1 s" in terminal.lines
    assert re.fullmatch(r"compiling\s+\S+\s+2/2\s+0:00:00", terminal.lines[-2])


def test_a_program_at_work_has_a_line_with_the_time_that_is_expected(terminal: Terminal) -> None:
    terminal.show(STARTED, FINISHED, EXPECTED)
    terminal.display.stop()

    assert any(re.search(r"^  decode_256 .*0:00:00 of about 31 s$", line) for line in terminal.lines)
    assert any(re.search(r"^compiling\s+\S+\s+1/2 ", line) for line in terminal.lines)


def test_a_failure_is_told_with_its_reason_as_it_is(terminal: Terminal) -> None:
    terminal.show(STARTED, FINISHED, EXPECTED, FAILED, EXPECTED, LAST)

    assert "compiling decode_256 failed after 12 s: ValueError: [bold]odd[/bold]" in terminal.lines
    assert "compiling 2/2 decode_256 60.1 s" in terminal.lines


def test_a_failure_of_what_never_began_is_told_too(terminal: Terminal) -> None:
    terminal.show(FAILED)
    assert "compiling decode_256 failed after 12 s: ValueError: [bold]odd[/bold]" in terminal.lines
    terminal.display.stop()


def test_one_job_follows_the_other(terminal: Terminal) -> None:
    terminal.show(progress("started", "share", 0, job="lower", total=1))
    terminal.show(progress("finished", "share", 1, job="lower", total=1, seconds=0.21))
    terminal.show(STARTED, FINISHED)
    terminal.display.stop()

    assert "lowering 1/1 share 0.2 s" in terminal.lines
    assert "compiling 1/2 decode_128 31.4 s" in terminal.lines
    assert terminal.raw.count(HIDDEN) == terminal.raw.count(SHOWN) == 2


def test_the_cursor_comes_back_when_an_export_ends_early(terminal: Terminal) -> None:
    reporter = Reporter(as_json=False)
    reporter._display = terminal.display
    with pytest.raises(KeyboardInterrupt), reporter:
        terminal.show(STARTED)
        raise KeyboardInterrupt
    assert terminal.raw.rindex(SHOWN) > terminal.raw.rindex(HIDDEN)


# Elsewhere


def test_elsewhere_each_event_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(as_json=False, as_lines=True)
    for each in (progress("started", "share", 0, job="lower"), FINISHED, EXPECTED, FAILED):
        reporter.program(each)
    captured = capsys.readouterr()

    assert captured.out == ""
    common = {"message": "compiling programs", "total": 2, "elapsed_s": 12.3}
    assert [json.loads(line) for line in captured.err.splitlines()] == [
        {**common, "message": "lowering programs", "program": "share", "state": "started", "done": 0},
        {**common, "program": "decode_128", "state": "finished", "done": 1, "seconds": 31.4},
        {**common, "program": "decode_256", "state": "started", "done": 1, "expected_s": 31.4},
        {**common, "program": "decode_256", "state": "failed", "done": 1, "reason": "ValueError: [bold]odd[/bold]"},
    ]


def test_weights_are_lines_of_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(as_json=False, as_lines=True)(7, 7)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("elapsed_s") >= 0
    assert line == {"message": "packing weights", "done": 7, "total": 7}


def test_a_server_logs_them(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    Reporter(as_json=True).program(EXPECTED)
    (record,) = caplog.records

    assert record.getMessage() == "compiling programs"
    assert vars(record)["program"] == "decode_256"
    assert (vars(record)["done"], vars(record)["total"], vars(record)["expected_s"]) == (1, 2, 31.4)
    assert capsys.readouterr().err == ""
