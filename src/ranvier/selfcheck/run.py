"""The steps in their order: what needs no device here, what needs one in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ranvier.config.self_check import SelfCheckConfig
from ranvier.neuron_host import NeuronHost, jax_environment
from ranvier.selfcheck import cores, discovery, exporting
from ranvier.selfcheck.children import CHILD, LOAD, carry_out
from ranvier.selfcheck.orders import CheckOrder
from ranvier.selfcheck.outcome import Notes, Outcome, run_step, skipped
from ranvier.selfcheck.reference import ANSWERS

TINY_STEPS = ("cores", "reference", "slots", "sampling", "memory", "timing", "bf16")
"""Of the process that has the devices, with the tiny artifact."""
MODEL_STEPS = ("memory", "timing")
"""The same with the model that was given."""
_NEED_ANSWERS = ("reference", "sampling", "bf16")


class SelfCheck:
    """One run. `outcomes` grows step by step; `host` is None where the environment contradicts itself.

    `root`: of the file system, for discovery. `command` starts the processes that do steps. `folder`: a directory to
    work in and leave things in; None is a temporary one. `tell` hears each outcome.
    """

    def __init__(
        self,
        config: SelfCheckConfig,
        *,
        root: Path = Path("/"),
        command: Sequence[str] = CHILD,
        folder: Path | None = None,
        tell: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.host: NeuronHost | None = None
        self._config, self._root, self._command, self._tell = config, root, command, tell
        self._num_cores = config.num_cores or 1
        self._folder = folder
        self._export_peak = 0

    def run(self) -> list[Outcome]:
        """Do everything. Raises nothing that a step raises."""
        self._take(run_step("discovery", self._discover))
        if not self._has_cores():
            names = ("export", "references", LOAD, *TINY_STEPS, "release")
            self._skip(names, "no devices to use; --emulate-neuron does this on this machine's processor")
            return self.outcomes
        if self._folder is not None:
            self._check(self._folder)
            return self.outcomes
        with tempfile.TemporaryDirectory(prefix="ranvier-self-check-") as folder:
            self._check(Path(folder))
        return self.outcomes

    def _check(self, folder: Path) -> None:
        self._check_tiny(folder)
        if self._config.model_id is not None:
            self._time_model(folder)

    def _has_cores(self) -> bool:
        """Whether there is something to check, whatever else discovery complained of."""
        if self._config.emulate_neuron or self.host is None:
            return self.host is not None
        return bool(self.host.usable_devices) and self.host.num_available >= self._num_cores

    def _take(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._tell(outcome)

    def _skip(self, names: Sequence[str], reason: str) -> None:
        for name in names:
            self._take(skipped(name, reason))

    def _discover(self, notes: Notes) -> None:
        emulate = self._config.emulate_neuron
        host = self.host = discovery.find_host(self._root, emulate=emulate)
        if self._config.num_cores is None:
            self._num_cores = 2 if emulate or host.num_available >= 2 else 1
        discovery.check_discovery(host, self._num_cores, notes, emulate=emulate)

    def _check_tiny(self, folder: Path) -> None:
        self._take(run_step("export", lambda notes: self._export(folder, notes)))
        alone = jax_environment(os.environ, emulated_cores=1)
        order = CheckOrder(job="reference", steps=("references",), folder=str(folder))
        carry_out(order, {**os.environ, **alone}, self._take, self._command)
        steps = TINY_STEPS if self._config.model_id is None else tuple(each for each in TINY_STEPS if each != "timing")
        if not (folder / exporting.FIRST).is_dir():
            self._skip((LOAD, *steps, "release"), "not begun: there is no artifact")
            return
        if not (folder / ANSWERS).is_file():
            self._skip(_NEED_ANSWERS, "not begun: there is nothing to compare with")
            steps = tuple(each for each in steps if each not in _NEED_ANSWERS)
        self._on_devices(folder, folder / exporting.FIRST, steps, is_tiny=True)
        if any(each.name in TINY_STEPS and each.status != "skipped" for each in self.outcomes):
            emulate = self._config.emulate_neuron
            self._take(run_step("release", lambda notes: cores.check_release(notes, emulate=emulate)))
        else:
            self._skip(("release",), "no process had the cores")

    def _export(self, folder: Path, notes: Notes) -> None:
        exporting.write_checkpoint(folder)
        self._export_peak = exporting.export_tiny(self._config, self._num_cores, folder, notes)

    def _on_devices(self, folder: Path, artifact: Path, steps: tuple[str, ...], *, is_tiny: bool) -> None:
        order = CheckOrder(
            job="devices",
            steps=steps,
            folder=str(folder),
            artifact=str(artifact),
            emulate=self._config.emulate_neuron,
            root=str(self._root),
            export_peak=self._export_peak,
            is_tiny=is_tiny,
        )
        carry_out(order, os.environ, self._take if is_tiny else self._take_of_model, self._command)

    def _take_of_model(self, outcome: Outcome) -> None:
        self._take(replace(outcome, name=f"{outcome.name} of the model"))

    def _time_model(self, folder: Path) -> None:
        """The model that was given, exported and timed in a process of its own."""
        found: list[Path] = []
        config = self._config

        def export(notes: Notes) -> None:
            artifact, self._export_peak = exporting.export_model(config, config.num_cores, folder, notes)
            found.append(artifact)

        self._take(run_step("export of the model", export))
        if found:
            self._on_devices(folder, found[0], MODEL_STEPS, is_tiny=False)
        else:
            names = (LOAD, *MODEL_STEPS)
            self._skip([f"{name} of the model" for name in names], "not begun: there is no artifact")
