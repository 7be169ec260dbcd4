"""Taking cores: patience while they are busy, the holder's name when they stay so, no patience for other errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fake_neuron import put
from ranvier.errors import SetupError
from ranvier.neuron_host import Holder, acquire, find_holders, looks_busy

BUSY = "Failed precondition: nrt_allocate_neuron_cores failed with NRT_RESOURCE\nmore lines"


class Cores:
    """Cores that are busy for the first `failures` claims."""

    def __init__(self, failures: int, text: str = BUSY) -> None:
        self.failures, self.text, self.claims = failures, text, 0

    def claim(self) -> str:
        self.claims += 1
        if self.claims <= self.failures:
            raise RuntimeError(self.text)
        return "taken"


def test_cores_released_late_are_waited_for_with_growing_pauses() -> None:
    cores, pauses, lines = Cores(failures=3), list[float](), list[str]()
    taken = acquire(cores.claim, "0-1", holders=tuple, pause=pauses.append, report=lines.append)
    assert (taken, cores.claims, pauses) == ("taken", 4, [1.0, 2.0, 4.0])
    assert lines[0] == "NeuronCores 0-1 are taken; attempt 2 of 6 in 1 s"
    assert lines[2] == "NeuronCores 0-1 are taken; attempt 4 of 6 in 4 s"


def test_free_cores_are_taken_without_a_word() -> None:
    pauses, lines = list[float](), list[str]()
    assert acquire(Cores(0).claim, "0", holders=tuple, pause=pauses.append, report=lines.append) == "taken"
    assert (pauses, lines) == ([], [])


def test_the_last_attempt_may_succeed() -> None:
    assert acquire(Cores(5).claim, "0", holders=tuple, pause=lambda seconds: None) == "taken"


def test_cores_that_stay_taken_are_refused_with_who_holds_them() -> None:
    cores, pauses = Cores(failures=99), list[float]()
    mine = Holder(os.getpid(), "ranvier", "/dev/neuron0")
    with pytest.raises(SetupError) as error_info:
        acquire(
            cores.claim,
            "0-3",
            holders=lambda: (Holder(812, "python3", "/dev/neuron0"), mine, Holder(813, "vllm", "/dev/neuron1")),
            pause=pauses.append,
        )
    assert str(error_info.value) == (
        "NeuronCores 0-3 could not be taken in 6 attempts (Failed precondition: nrt_allocate_neuron_cores failed with "
        "NRT_RESOURCE); held by /dev/neuron0: process 812 (python3); /dev/neuron1: process 813 (vllm): end that "
        "process or choose other cores with `NEURON_RT_VISIBLE_CORES`"
    )
    assert (cores.claims, sum(pauses)) == (6, 31.0)
    assert isinstance(error_info.value.__cause__, RuntimeError)


def test_an_unseen_holder_is_looked_for_on_the_host() -> None:
    with pytest.raises(SetupError) as error_info:
        acquire(Cores(9).claim, "0", holders=tuple, pause=lambda seconds: None, attempts=2)
    assert str(error_info.value).endswith(
        "; no process seen from here holds a device: it may run in another container or as another user (`neuron-ls` "
        "on the host shows it), or the driver releases late"
    )


def test_other_errors_pass_at_once() -> None:
    cores = Cores(failures=9, text="NEFF was compiled for another target")
    with pytest.raises(RuntimeError, match="another target"):
        acquire(cores.claim, "0", holders=tuple, pause=lambda seconds: None)
    assert cores.claims == 1


@pytest.mark.parametrize(
    ("text", "is_busy"),
    [
        ("nrt_allocate_neuron_cores: failed", True),
        ("status NRT_RESOURCE (4)", True),
        ("Neuron Core 0 is already in use by process 7", True),
        ("Device or resource busy", True),
        ("out of memory on device", False),
        ("", False),
    ],
)
def test_being_taken_is_known_by_the_text(text: str, is_busy: bool) -> None:
    assert looks_busy(RuntimeError(text)) is is_busy


def test_holders_are_read_from_open_files(tmp_path: Path) -> None:
    for pid, link, target in (
        ("812", "5", "/dev/neuron0"),
        ("812", "6", "/dev/neuron0"),
        ("812", "7", "/dev/null"),
        ("90", "3", "/dev/neuron1"),
        ("91", "3", "/dev/neuron_shm"),
    ):
        folder = tmp_path / "proc" / pid / "fd"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / link).symlink_to(target)
    put(tmp_path, "proc/812/comm", "python3\n")
    put(tmp_path, "proc/cpuinfo", "")
    put(tmp_path, "proc/self/comm", "")
    assert find_holders(tmp_path) == (
        Holder(90, "unknown", "/dev/neuron1"),
        Holder(812, "python3", "/dev/neuron0"),
    )


def test_a_host_without_proc_has_no_holders(tmp_path: Path) -> None:
    assert find_holders(tmp_path) == ()
