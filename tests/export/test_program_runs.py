"""What becomes of an order when its processes fail, are killed, or do nothing; progress on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from export_requests import neuron_manifest

from ranvier.core import Limits
from ranvier.errors import CompileError
from ranvier.export import process_memory, program_runs
from ranvier.export.orders import ProgramEvent, ProgramOrder
from ranvier.export.program_child import carry_out
from ranvier.export.program_runs import ProgramProgress, ProgramRuns

CHILD = Path(__file__).with_name("scripted_child.py")
GIB = 2**30


def order_of(*names: str, jobs: int = 2) -> ProgramOrder:
    limits = Limits(batch_size=1, sequence_length=32, max_input_tokens=31, max_batch_prefill_tokens=32)
    return ProgramOrder(job="compile", directory="/a", limits=limits, neuron=neuron_manifest(), names=names, jobs=jobs)


class Scripted:
    """An order carried out by processes that follow a script."""

    def __init__(self, folder: Path, names: str, *acts: list[list[Any]], jobs: int = 2) -> None:
        self._folder = folder
        (folder / "script.json").write_text(json.dumps(acts))
        self.told: list[ProgramProgress] = []
        command = (sys.executable, "-S", str(CHILD), str(folder))
        self._runs = ProgramRuns(order_of(*names.split(), jobs=jobs), {}, self.told.append, command)

    def run(self) -> dict[str, float]:
        return self._runs.run()

    def refusal(self) -> str:
        with pytest.raises(CompileError) as caught:
            self.run()
        return str(caught.value)

    @property
    def orders(self) -> list[tuple[list[str], int]]:
        """Names and jobs of each process."""
        lines = (self._folder / "orders.jsonl").read_text().splitlines()
        return [(order["names"], order["jobs"]) for order in map(json.loads, lines) if order]

    @property
    def events(self) -> list[str]:
        return [f"{each.state} {each.name} {each.done}/{each.total}" for each in self.told]


def did(name: str, seconds: float = 1.0) -> list[list[Any]]:
    return [["started", name], ["finished", name, seconds]]


def failed(name: str, reason: str = "ValueError: no") -> list[list[Any]]:
    return [["started", name], ["failed", name, reason]]


KILL: list[list[Any]] = [["signal", 9]]

# What is finished, what is tried again


def test_one_process_does_everything_where_nothing_fails(tmp_path: Path) -> None:
    runs = Scripted(tmp_path, "a b", did("a", 1.5) + did("b", 2.5))

    assert runs.run() == {"a": 1.5, "b": 2.5}
    assert runs.orders == [(["a", "b"], 2)]
    assert runs.events == ["started a 0/2", "finished a 1/2", "started b 1/2", "finished b 2/2"]


def test_what_failed_is_tried_once_more_in_another_process_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    runs = Scripted(tmp_path, "a b c", did("a") + failed("b", "ValueError: odd") + did("c"), did("b", 3.0))

    assert runs.run() == {"a": 1.0, "c": 1.0, "b": 3.0}
    assert runs.orders == [(["a", "b", "c"], 2), (["b"], 2)]
    assert "failed b 1/3" in runs.events
    assert [each.reason for each in runs.told if each.state == "failed"] == ["ValueError: odd"]


def test_a_second_failure_ends_it_with_names_reasons_and_counts(tmp_path: Path) -> None:
    runs = Scripted(tmp_path, "a b c", did("a") + failed("b") + failed("c"), failed("b") + failed("c", "OSError: full"))

    assert runs.refusal() == ("compiling failed 2 times: `b`: ValueError: no; `c`: OSError: full; 1 of 3 are done")
    assert runs.orders == [(["a", "b", "c"], 2), (["b", "c"], 2)]


def test_of_many_failures_three_are_named(tmp_path: Path) -> None:
    all_of = [act for name in "abcde" for act in failed(name)]
    assert Scripted(tmp_path, "a b c d e", all_of, all_of).refusal() == (
        "compiling failed 2 times: `a`: ValueError: no; `b`: ValueError: no; `c`: ValueError: no and 2 more; "
        "0 of 5 are done"
    )


def test_what_is_left_after_a_death_comes_before_what_was_at_work(tmp_path: Path) -> None:
    runs = Scripted(tmp_path, "a b c", [*did("a"), ["started", "b"], ["exit", 3]], did("c"), did("b"))
    assert sorted(runs.run()) == ["a", "b", "c"]
    assert runs.orders == [(["a", "b", "c"], 2), (["c"], 2), (["b"], 2)]
    assert [each.reason for each in runs.told if each.state == "failed"] == ["its process ended with code 3"]


def test_the_innocent_neighbour_of_a_program_that_kills_is_finished(tmp_path: Path) -> None:
    both = [["started", "bad"], ["started", "good"], *KILL]
    runs = Scripted(tmp_path, "bad good", both, [["started", "bad"], *KILL], did("good"))

    assert "`bad`: killed by signal 9; 1 of 2 are done" in runs.refusal()
    assert runs.orders == [(["bad", "good"], 2), (["bad", "good"], 1), (["good"], 1)]


# Processes that say nothing


@pytest.mark.parametrize("code", [0, 1])
def test_processes_that_do_nothing_end_in_an_error(tmp_path: Path, code: int) -> None:
    runs = Scripted(tmp_path, "a b", [["exit", code]], [["exit", code]])

    assert runs.refusal() == (
        f"compiling failed 2 times: `a`: its process ended with code {code}; `b`: its process ended with code {code}; "
        "0 of 2 are done"
    )
    assert runs.events == ["failed a 0/2", "failed b 0/2"] * 2


def test_a_process_that_dies_before_its_first_event_is_tried_again(tmp_path: Path) -> None:
    runs = Scripted(tmp_path, "a b", [["exit", 1]], did("a") + did("b"))
    assert sorted(runs.run()) == ["a", "b"]


def test_a_process_that_dies_without_reading_its_order_is_an_error(tmp_path: Path) -> None:
    # More than a pipe holds.
    names = " ".join(f"prefill_{number}" for number in range(20_000))
    refusal = Scripted(tmp_path, names, [["deaf"]], [["deaf"]]).refusal()
    assert refusal.endswith("its process ended with code 0 and 19997 more; 0 of 20000 are done")


def test_what_a_dying_process_wrote_in_half_is_left_out(tmp_path: Path) -> None:
    cut = [["started", "a"], ["write", '{"state": "finished", "na'], *KILL]
    assert Scripted(tmp_path, "a", cut, did("a", 4.0)).run() == {"a": 4.0}


def test_a_process_whose_program_is_missing_is_an_error_and_no_hang(tmp_path: Path) -> None:
    command = (sys.executable, "-S", str(tmp_path / "gone.py"))
    with pytest.raises(CompileError, match="`a`: its process ended with code 2; 0 of 1 are done"):
        ProgramRuns(order_of("a"), {}, lambda progress: None, command).run()


WITH_COMPILER = """
import os, signal, subprocess, sys
compiler = "import os, signal, sys; os.open(sys.argv[1], os.O_WRONLY); os.write(1, b'up'); signal.pause()"
with subprocess.Popen([sys.executable, "-S", "-c", compiler, sys.argv[1]], stdout=subprocess.PIPE) as process:
    process.stdout.read(2)
    os.write(1, b'{"state": "started", "name": "a"}\\n')
    signal.pause()
"""


def test_an_interruption_ends_the_process_and_those_under_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "held")
    held = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)

    def interrupt(progress: ProgramProgress) -> None:
        raise KeyboardInterrupt

    command = (sys.executable, "-S", "-c", WITH_COMPILER, str(tmp_path / "held"))
    with pytest.raises(KeyboardInterrupt):
        ProgramRuns(order_of("a"), {}, interrupt, command).run()
    os.set_blocking(held, True)
    # The end is told when the compiler, the only writer, is gone.
    assert os.read(held, 1) == b""
    os.close(held)


def test_a_process_whose_export_was_killed_ends_with_those_under_it() -> None:
    compiler = "subprocess.Popen([sys.executable, '-S', '-c', 'import signal; signal.pause()'])\n"
    text = (
        "import os, signal, subprocess, sys\n"
        "from ranvier.export.program_child import end_with_reader\n"
        f"{compiler}os.write(2, b'up')\nend_with_reader(1)\nsignal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stderr.read(2) == b"up"
        process.stdout.close()
        # At its end only when everybody who inherited it is gone; only then does the test go on.
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGKILL


# Memory


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has taken 21.5 of the host's 32 GiB."""
    monkeypatch.setattr(process_memory, "tree_bytes", lambda pid: 43 * GIB // 2)
    monkeypatch.setattr(program_runs, "host_bytes", lambda: 32 * GIB)


@pytest.mark.usefixtures("measured")
def test_a_compiler_killed_for_memory_is_said_to_be_so_with_what_it_had_taken(tmp_path: Path) -> None:
    at_a: list[list[Any]] = [["started", "a"], *KILL]
    assert Scripted(tmp_path, "a b", at_a, did("b"), at_a).refusal() == (
        "compiling failed 2 times: `a`: killed by signal 9; 1 of 2 are done. It was killed, as the kernel does when "
        "memory runs out: the compiler had taken 21.5 GiB, of the 32.0 GiB that this host has. Export on a host with "
        "more memory, with fewer or smaller buckets, or for more cores, and copy the artifact"
    )


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    "reason",
    [
        "RuntimeError: neuronx-cc returned -9",
        "RuntimeError: compiler failed with exit code 137",
        "CalledProcessError: Command 'neuronx-cc' died with <Signals.SIGKILL: 9>.",
        "XlaRuntimeError: [F137] neuronx-cc was forcibly killed - this most commonly occurs due to insufficient memory",
        "CalledProcessError: Command 'neuronx-cc' returned non-zero exit status 137.",
        "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.",
        "RuntimeError: exitcode=-9",
        "RuntimeError: terminate called after throwing an instance of 'std::bad_alloc'",
        "MemoryError: ",
    ],
)
def test_a_compiler_under_the_process_that_was_killed_is_told_and_left_alone_from_then_on(
    tmp_path: Path, reason: str
) -> None:
    runs = Scripted(tmp_path, "a b", failed("a", reason) + did("b"), failed("a", reason))

    assert "the compiler had taken 21.5 GiB, of the 32.0 GiB" in runs.refusal()
    assert runs.orders == [(["a", "b"], 2), (["a"], 1)]


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    "reason",
    ["RuntimeError: exit code 1", "ValueError: 9 is not 137", "XlaRuntimeError: shape [9, 137]", "OSError: -9x"],
)
def test_other_failures_say_nothing_of_memory(tmp_path: Path, reason: str) -> None:
    runs = Scripted(tmp_path, "a", failed("a", reason), failed("a", reason))

    assert runs.refusal() == f"compiling failed 2 times: `a`: {reason}; 0 of 1 are done"
    assert runs.orders == [(["a"], 2), (["a"], 2)]


def test_where_the_hosts_memory_is_unknown_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_runs, "host_bytes", lambda: None)
    refusal = Scripted(tmp_path, "a", [["started", "a"], *KILL], [["started", "a"], *KILL]).refusal()
    assert " GiB. Export on a host with more memory" in refusal


# Progress


def test_the_time_expected_is_that_of_the_same_kind_or_of_any(tmp_path: Path) -> None:
    names = "prefill_128 share prefill_64 prefill_32 decode_128"
    acts = did("prefill_128", 8.0) + did("share", 1.0) + did("prefill_64", 4.0) + did("prefill_32") + did("decode_128")
    runs = Scripted(tmp_path, names, acts)
    runs.run()
    expected = {each.name: each.expected_s for each in runs.told if each.state == "started"}

    assert expected == {
        "prefill_128": None,
        "share": 8.0,
        "prefill_64": 8.0,
        "prefill_32": 6.0,
        "decode_128": 2.5,
    }
    assert all(each.expected_s is None for each in runs.told if each.state != "started")
    assert [each.seconds for each in runs.told if each.state == "finished"] == [8.0, 1.0, 4.0, 1.0, 1.0]
    elapsed = [each.elapsed_s for each in runs.told]
    assert elapsed == sorted(elapsed)
    assert {each.job for each in runs.told} == {"compile"}


# Inside the process


def test_as_many_programs_at_a_time_as_ordered_and_no_more() -> None:
    at_work: set[str] = set()
    most: list[int] = []
    together, lock = threading.Barrier(2), threading.Lock()

    def work(name: str) -> None:
        with lock:
            at_work.add(name)
            most.append(len(at_work))
        together.wait(10)
        with lock:
            at_work.remove(name)
        together.wait(10)

    told: list[ProgramEvent] = []
    carry_out(work, order_of("a", "b", "c", "d", jobs=2), told.append)

    assert max(most) == 2
    assert sorted(event.name for event in told if event.state == "finished") == ["a", "b", "c", "d"]


def test_a_failure_stops_no_other_program() -> None:
    def work(name: str) -> None:
        if name != "c":
            raise ValueError(f"no {name}\nand more" if name == "a" else "")

    told: list[ProgramEvent] = []
    carry_out(work, order_of("a", "b", "c", jobs=1), told.append)

    assert [(event.state, event.name, event.reason) for event in told if event.state != "started"] == [
        ("failed", "a", "ValueError: no a and more"),
        ("failed", "b", "ValueError: "),
        ("finished", "c", ""),
    ]


def test_a_long_reason_keeps_its_beginning_and_its_end() -> None:
    def work(name: str) -> None:
        raise ValueError("begin" + " x" * 9000 + "\nneuronx-cc returned -9")

    told: list[ProgramEvent] = []
    carry_out(work, order_of("a", jobs=1), told.append)

    assert told[-1].reason.startswith("ValueError: begin x")
    assert told[-1].reason.endswith("x neuronx-cc returned -9")
    # A line that goes through a pipe in one piece.
    assert len(told[-1].reason) < 1000


def test_an_order_comes_out_of_the_pipe_as_it_went_in() -> None:
    assert ProgramOrder.from_json(order_of("a", "b").to_json()) == order_of("a", "b")
