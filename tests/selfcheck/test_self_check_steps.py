"""Steps that look at devices, on devices that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fake_neuron import SYSFS, neuron_root, put
from quick_jax import jax
from ranvier.core import StepPlan, StepResult
from ranvier.errors import SetupError
from ranvier.models import spec_of
from ranvier.neuron_host import discover
from ranvier.planner.memory import CoreMemory
from ranvier.selfcheck.cores import Attempt, check_refusal, check_release, rival
from ranvier.selfcheck.device_steps import Device, check_devices
from ranvier.selfcheck.discovery import compare
from ranvier.selfcheck.memory import check_cores, device_memory
from ranvier.selfcheck.model import CONFIG
from ranvier.selfcheck.outcome import Notes, SkippedStep
from ranvier.selfcheck.timing import check_timing

assert jax

PLANNED = CoreMemory(weights=100, kv_cache=100, counts=100, logits=100, scratch=100, reserve=100)
BUSY = "nrt_allocate_neuron_cores: logical neuron core(s) not available"


def said(check: Callable[[Notes], None]) -> tuple[bool, list[str]]:
    notes = Notes()
    check(notes)
    return notes.has_failed, notes.lines


def answers(*attempts: Attempt) -> Callable[[], Attempt]:
    left: Iterator[Attempt] = iter(attempts)
    return lambda: next(left)


def refused(text: str) -> Attempt:
    return Attempt(is_taken=False, text=(text,))


TAKEN = Attempt(is_taken=True, text=("2 cores of platform neuron",))


def test_a_second_process_that_is_refused_in_known_words_passes_and_the_words_are_shown() -> None:
    has_failed, lines = said(lambda notes: check_refusal(notes, emulate=False, ask=answers(refused(BUSY))))
    assert not has_failed and lines[-1] == f"  {BUSY}"


def test_a_second_process_that_takes_the_cores_too_is_a_failure() -> None:
    has_failed, lines = said(lambda notes: check_refusal(notes, emulate=False, ask=answers(TAKEN)))
    assert has_failed and lines[0] == "WRONG: a second process took cores that this one has"


def test_a_refusal_in_words_that_acquiring_does_not_know_is_a_failure() -> None:
    has_failed, lines = said(lambda notes: check_refusal(notes, emulate=False, ask=answers(refused("NRT_FAILURE 1"))))
    assert has_failed and "report it" in lines[-1] and "  NRT_FAILURE 1" in lines


def test_cores_that_are_released_late_are_waited_for() -> None:
    pauses: list[float] = []
    ask = answers(refused(BUSY), refused(BUSY), TAKEN)
    has_failed, lines = said(lambda notes: check_release(notes, emulate=False, ask=ask, pause=pauses.append))
    assert not has_failed and pauses == [2.0, 4.0]
    assert lines == ["another process took the cores at its attempt 3: 2 cores of platform neuron"]


def test_cores_that_are_never_released_are_a_failure() -> None:
    ask = answers(*[refused(BUSY)] * 5)
    has_failed, lines = said(lambda notes: check_release(notes, emulate=False, ask=ask, pause=lambda seconds: None))
    assert has_failed and lines[-1] == f"  {BUSY}"


@pytest.mark.parametrize("check", [check_refusal, check_release])
def test_emulated_cores_belong_to_nobody(check: Any) -> None:
    with pytest.raises(SkippedStep):
        check(Notes(), emulate=True)


def test_a_rival_that_falls_back_to_the_processor_has_taken_no_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    attempt = rival()
    assert not attempt.is_taken
    assert attempt.text[-1] == "JAX has fallen back to this machine's processor"


def used(root: Path, device: int, core: int, **sizes: int) -> None:
    folder = f"{SYSFS}/neuron{device}/neuron_core{core}/stats/memory_usage/device_mem"
    for category, size in sizes.items():
        put(root, f"{folder}/{category}/total", f"{size}\n")


def test_memory_of_each_core_is_read_by_category(tmp_path: Path) -> None:
    used(tmp_path, 0, 1, tensors=300, model_code=20)
    used(tmp_path, 3, 0, tensors=7)
    put(tmp_path, f"{SYSFS}/neuron3/neuron_core0/stats/memory_usage/device_mem/constants/total", "n/a\n")
    assert device_memory(tmp_path) == {
        "neuron0/core1": {"model_code": 20, "tensors": 300},
        "neuron3/core0": {"tensors": 7},
    }


def test_a_core_that_takes_more_than_planned_is_a_failure() -> None:
    found = {"neuron0/core0": {"tensors": 600}, "neuron0/core1": {"tensors": 601}, "neuron0/core2": {"tensors": 0}}
    has_failed, lines = said(lambda notes: check_cores(found, PLANNED, 1, notes))
    assert has_failed
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert len(wrong) == 1 and "neuron0/core1 takes more than the plan's" in wrong[0]
    assert not any("core2" in line for line in lines)


def test_neuron_ls_may_count_logical_or_physical_cores_and_must_list_the_same_devices(tmp_path: Path) -> None:
    host = discover(neuron_root(tmp_path, "trn2.48xlarge", devices=2, cores=8), {})
    for count in (4, 8):
        listed = [{"neuron_device": index, "nc_count": count} for index in range(2)]
        assert said(lambda notes, given=listed: compare(host, given, notes))[0] is False
    for listed in ([{"neuron_device": 0, "nc_count": 8}], [{"neuron_device": i, "nc_count": 2} for i in range(2)]):
        assert said(lambda notes, given=listed: compare(host, given, notes))[0] is True


def test_programs_that_run_on_the_processor_pass_for_no_device() -> None:
    programs = SimpleNamespace(details={"platform": "cpu", "num_cores": "1", "spread": "nothing"})
    device = cast(Device, SimpleNamespace(programs=programs, order=SimpleNamespace(emulate=False)))
    with pytest.raises(SetupError, match="its Neuron plug-in was not found"):
        check_devices(device, Notes())


class Instant:
    """Programs that take no time and remember what they were asked."""

    def __init__(self) -> None:
        self.plans: list[StepPlan] = []

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        return StepResult(())


def timed(tmp_path: Path, instance: str) -> tuple[Instant, bool, list[str]]:
    programs = Instant()
    neuron = SimpleNamespace(num_cores=2, prefill=(128, 256), chunk=(128,), decode=(128, 256))
    device = SimpleNamespace(
        programs=programs,
        neuron=neuron,
        artifact=SimpleNamespace(manifest=SimpleNamespace(batch_size=4, sequence_length=250, neuron=neuron)),
        host=discover(neuron_root(tmp_path, instance, devices=1, cores=2), {}),
        spec=spec_of(CONFIG),
        cast_type="fp32",
        order=SimpleNamespace(emulate=False, is_tiny=True),
    )
    return programs, *said(lambda notes: check_timing(cast(Device, device), notes))


def test_programs_that_are_faster_than_the_roofline_are_not_believed(tmp_path: Path) -> None:
    _, has_failed, lines = timed(tmp_path, "inf2.xlarge")
    assert has_failed
    assert "WRONG: decode of 4 at 256 is faster than its bound, which must be wrong" in lines
    assert lines[-1] == "a tiny model is bound by launches and the host: --model-id takes times of a real one"


def test_every_bucket_is_timed_with_as_much_as_it_holds_and_the_sequence_allows(tmp_path: Path) -> None:
    programs, _, _ = timed(tmp_path, "inf2.xlarge")
    asked = {(len(chunk.token_ids), chunk.start) for plan in programs.plans for chunk in plan.chunks}
    assert asked == {(128, 0), (249, 0), (128, 32), (1, 127), (1, 249)}
