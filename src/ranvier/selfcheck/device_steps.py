"""The steps of the process that has the devices, by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ranvier.artifacts import Artifact, NeuronManifest, open_artifact
from ranvier.errors import ArtifactError, SetupError
from ranvier.models import DecoderSpec, read_json, spec_of
from ranvier.neuron_host import CastType, NeuronHost
from ranvier.selfcheck import cores, memory, reference, sampling, slots, timing
from ranvier.selfcheck.discovery import find_host
from ranvier.selfcheck.orders import CheckOrder
from ranvier.selfcheck.outcome import Notes, SkippedStep

if TYPE_CHECKING:
    from ranvier.targets.neuron import NeuronPrograms

_PROGRAM_ENTRIES = "*-cache"
"""Everything that JAX's cache holds: nothing but the stored programs is ever compiled."""
_CAST_TYPES: dict[str, CastType] = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}


@dataclass(slots=True, kw_only=True)
class Device:
    """A loaded artifact and what it was loaded with."""

    order: CheckOrder
    host: NeuronHost
    artifact: Artifact
    programs: NeuronPrograms

    @property
    def neuron(self) -> NeuronManifest:
        """What its programs were lowered with."""
        assert self.artifact.manifest.neuron is not None
        return self.artifact.manifest.neuron

    @property
    def cast_type(self) -> CastType:
        """What it computes in."""
        return _CAST_TYPES[self.neuron.auto_cast_type]

    @property
    def spec(self) -> DecoderSpec:
        """Its decoder."""
        return spec_of(read_json(self.artifact.directory / "config.json"))

    @property
    def answers(self) -> reference.Answers:
        """Those of the reference."""
        return reference.read_answers(Path(self.order.folder))


def load(order: CheckOrder, notes: Notes) -> Device:
    """Take the devices and load the artifact, as a server does."""
    # Imported here: the process that answers as the reference needs none of it.
    from ranvier.compose.neuron import load_neuron_programs
    from ranvier.compose.plan import settle_limits
    from ranvier.config import load_config

    emulate = ["--emulate-neuron"] if order.emulate else []
    # Without the environment's options: what was exported is what is checked.
    config = load_config(["--model-id", order.artifact, "--target", "neuron", *emulate], {}, prog="self-check")
    artifact, root = open_artifact(Path(order.artifact)), Path(order.root)
    host = find_host(root, emulate=order.emulate)
    before, began_s = _entries(artifact), time.monotonic()
    programs = load_neuron_programs(config, artifact, settle_limits(config, artifact.manifest), root)
    took_s = time.monotonic() - began_s
    device = Device(order=order, host=host, artifact=artifact, programs=programs)
    check_devices(device, notes)
    _check_cache(device, before, took_s, notes)
    return device


def _entries(artifact: Artifact) -> set[str]:
    return {path.name for path in artifact.directory.rglob(_PROGRAM_ENTRIES)}


def check_devices(device: Device, notes: Notes) -> None:
    """Say what the programs run on. Raises `SetupError` where that is no device, and none is emulated."""
    from ranvier.targets.neuron.inspection import count_devices

    details, count = device.programs.details, count_devices()
    notes.say(f"platform {details['platform']}, {count} cores, of which {details['num_cores']} share the model")
    notes.say(f"spread over them: {details['spread']}")
    if device.order.emulate:
        return
    if details["platform"] == "cpu":
        # JAX takes what there is: everything else would pass without a device.
        raise SetupError("JAX runs on this machine's processor: its Neuron plug-in was not found or has failed")
    available = device.host.num_available
    notes.expect(count == available, f"JAX has {count} cores, where files and variables say {available}")


def _check_cache(device: Device, before: set[str], took_s: float, notes: Notes) -> None:
    """What was compiled is found again, and refused where it was compiled by another compiler."""
    from ranvier.compose.neuron import check_compiled

    compiled = device.neuron.compiled
    if compiled is None:
        notes.say(f"loaded and warm after {took_s:.1f} s; the artifact was not compiled when it was exported")
        return
    fresh, num_programs = _entries(device.artifact) - before, len(device.neuron.programs)
    notes.say(f"loaded and warm after {took_s:.1f} s; compiling had taken {sum(compiled.seconds.values()):.1f} s")
    notes.say(f"compile cache: {len(before)} entries for {num_programs} programs, {len(fresh)} more after loading")
    notes.expect(not fresh, f"{len(fresh)} programs were compiled again")
    try:
        check_compiled(replace(compiled, compiler="another compiler"), None if device.order.emulate else device.host)
    except ArtifactError:
        return
    notes.expect(False, "programs of another compiler were not refused")


def _bf16(device: Device, notes: Notes) -> None:
    """The tiny model's weights again, rounded to bfloat16, in programs that are compiled now."""
    if device.cast_type != "fp32":
        raise SkippedStep(f"the artifact is in {device.cast_type} itself")
    from ranvier.targets.neuron import Buckets, NeuronOptions

    buckets = Buckets(prefill=(128,), chunk=(128,), decode=(reference.LENGTH,), score=128)
    options = NeuronOptions(dtype="bfloat16", num_cores=device.neuron.num_cores, buckets=buckets)
    programs = reference.load_xla(Path(device.order.folder) / reference.WEIGHTS, options)
    reference.check_bf16(programs, device.answers, notes)
    programs.release()


Step: TypeAlias = Callable[[Device, Notes], None]

STEPS: Mapping[str, Step] = {
    "cores": lambda device, notes: cores.check_refusal(notes, emulate=device.order.emulate),
    "reference": lambda device, notes: reference.check_reference(
        device.programs, device.answers, device.cast_type, notes
    ),
    "slots": lambda device, notes: slots.check_slots(device.programs, notes),
    "sampling": lambda device, notes: sampling.check_sampling(device.programs, device.answers, device.cast_type, notes),
    "memory": lambda device, notes: memory.check_memory(device, notes),
    "timing": lambda device, notes: timing.check_timing(device, notes),
    "bf16": _bf16,
}
"""In the order in which they are done: what takes more memory comes after memory is looked at."""
