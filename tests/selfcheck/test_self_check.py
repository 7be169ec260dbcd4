"""The whole self-check, emulated; and without a device."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fake_neuron import neuron_root
from quick_jax import jax
from ranvier.config.self_check import SelfCheckConfig
from ranvier.errors import ModelError
from ranvier.selfcheck import self_check
from ranvier.selfcheck.outcome import Outcome
from ranvier.selfcheck.privacy import private_words
from ranvier.selfcheck.report import is_passed, markdown
from ranvier.selfcheck.run import SelfCheck

assert jax

STEPS = (
    *("discovery", "export", "references", "load", "cores", "reference", "slots", "sampling", "memory", "timing"),
    *("bf16", "release"),
)
NEEDS_DEVICE = ("discovery", "cores", "memory", "release")


@dataclass(frozen=True)
class Run:
    """A finished self-check."""

    check: SelfCheck
    report: str
    folder: Path

    def outcome(self, name: str) -> Outcome:
        (found,) = (each for each in self.check.outcomes if each.name == name)
        return found


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("self-check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANVIER_INSTANCE", "inf2.xlarge")
        check = SelfCheck(SelfCheckConfig(emulate_neuron=True), folder=folder)
        check.run()
    return Run(check, markdown(check.outcomes, check.host, private_words(os.environ), emulate=True), folder)


def test_an_emulated_run_passes_every_step_that_needs_no_device(emulated: Run) -> None:
    expected = [(name, "skipped" if name in NEEDS_DEVICE else "passed") for name in STEPS]
    assert [(each.name, each.status) for each in emulated.check.outcomes] == expected, emulated.report
    assert is_passed(emulated.check.outcomes)


def test_an_emulated_run_says_that_nothing_is_proven_of_a_device(emulated: Run) -> None:
    last = emulated.report.rstrip().splitlines()[-1]
    assert last.startswith("**Verdict: passed, emulated**")
    assert last.endswith("Skipped: discovery, cores, memory, release.")


def test_every_program_is_compiled_once_and_found_by_the_second_export_and_by_loading(emulated: Run) -> None:
    assert "0 new files beside 13" in emulated.outcome("export").lines[-1]
    assert emulated.outcome("load").lines[-1] == "compile cache: 13 entries for 13 programs, 0 more after loading"


def test_both_cores_share_the_model(emulated: Run) -> None:
    assert emulated.outcome("load").lines[:2] == (
        "platform cpu, 2 cores, of which 2 share the model",
        "spread over them: heads, mlp, vocabulary",
    )


def test_every_subset_of_slots_and_every_sampling_setting_is_tried(emulated: Run) -> None:
    assert "15 of 15 subsets" in emulated.outcome("slots").lines[0]
    assert emulated.outcome("sampling").lines[0].startswith("12 settings, 72 of 72 tokens")


def test_times_stand_beside_the_bounds_of_the_instance_type(emulated: Run) -> None:
    lines = emulated.outcome("timing").lines
    assert "bounds: Inferentia2, LNC 1, 2 cores, fp32" in lines
    assert sum(line.startswith(("prefill", "chunk", "decode")) for line in lines) == 6


def test_a_report_names_versions_and_no_path_host_or_user(emulated: Run) -> None:
    assert "| jax | 0.10" in emulated.report and "| instance | inf2.xlarge |" in emulated.report
    for private in (emulated.folder, tempfile.gettempdir(), Path.home(), sys.prefix, Path.cwd()):
        assert str(private) not in emulated.report


def test_a_given_artifact_is_timed_instead_of_the_tiny_model(emulated: Run, tmp_path: Path) -> None:
    config = SelfCheckConfig(emulate_neuron=True, model_id=str(emulated.folder / "first"))
    check = SelfCheck(config, folder=tmp_path)
    check._time_model(tmp_path)
    assert [(each.name, each.status) for each in check.outcomes] == [
        ("export of the model", "passed"),
        ("load of the model", "passed"),
        ("memory of the model", "skipped"),
        ("timing of the model", "passed"),
    ]
    assert not any("a tiny model" in line for line in check.outcomes[-1].lines)


def test_without_a_device_discovery_says_why_and_nothing_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert self_check([], "ranvier self-check", tmp_path) == 1
    report = capsys.readouterr().out
    assert "| discovery | **failed** | 0.0 |" in report
    assert "no /dev/neuron0 and no driver (/sys/module/neuron/version)" in report
    assert all(f"| {name} | skipped | 0.0 |" in report for name in STEPS[1:])
    assert "**Verdict: failed** (discovery)." in report


def test_more_cores_than_there_are_end_it_before_anything_is_exported(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    outcomes = SelfCheck(SelfCheckConfig(num_cores=4), root=root).run()
    assert outcomes[0].status == "failed" and "`num_cores` is 4" in outcomes[0].lines[-1]
    assert {each.status for each in outcomes[1:]} == {"skipped"}


def test_an_export_that_fails_is_shown_without_its_paths_and_the_report_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> int:
        raise RuntimeError(f"neuronx-cc wrote {tmp_path}/log.txt and stopped")

    monkeypatch.setattr("ranvier.selfcheck.exporting.export_tiny", broken)
    monkeypatch.setattr("ranvier.selfcheck.run.carry_out", lambda *order: None)
    output = tmp_path / "report.md"
    assert self_check(["--emulate-neuron", "--output", str(output)], "ranvier self-check") == 1
    report = output.read_text(encoding="utf-8")
    assert "RuntimeError: neuronx-cc wrote <path> and stopped" in report
    assert "| release | skipped |" in report and str(tmp_path) not in report
    assert capsys.readouterr().out == ""


def test_a_model_that_is_not_there_is_refused_before_any_step(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or directory"):
        self_check(["--emulate-neuron", "--model-id", str(tmp_path / "nowhere")], "ranvier self-check")
