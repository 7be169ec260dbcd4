"""What was found of Neuron on this host, beside what `neuron-ls` says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ranvier.neuron_host import INSTANCE_VARIABLES, NeuronHost, discover
from ranvier.selfcheck.outcome import Notes, SkippedStep

_TIMEOUT_S = 60.0


def find_host(root: Path, *, emulate: bool) -> NeuronHost:
    """The host as this process may use it. Emulated, nothing counts but the instance type. Raises `OptionError`."""
    if not emulate:
        return discover(root)
    return discover(root, {name: os.environ[name] for name in INSTANCE_VARIABLES if name in os.environ})


def check_discovery(host: NeuronHost, num_cores: int, notes: Notes, *, emulate: bool) -> None:
    """Say what was found. Without a device it fails, with the reason and what to do."""
    notes.lines += host.describe()
    if emulate:
        raise SkippedStep("devices are emulated on this machine's processor")
    host.require_cores(num_cores)
    listed = neuron_ls()
    if listed is None:
        notes.say("neuron-ls: not there or without an answer, nothing to compare with")
        return
    compare(host, listed, notes)


def neuron_ls() -> list[Any] | None:
    """What `neuron-ls -j` lists: an object for each device; None where it is not installed or fails."""
    command = shutil.which("neuron-ls") or shutil.which("neuron-ls", path="/opt/aws/neuron/bin")
    if command is None:
        return None
    try:
        done = subprocess.run([command, "-j"], capture_output=True, timeout=_TIMEOUT_S, check=True)
        listed = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return listed if isinstance(listed, list) else None


def compare(host: NeuronHost, listed: list[Any], notes: Notes) -> None:
    """Devices by their number, cores by theirs: the tool may count physical or logical ones."""
    objects = [each for each in listed if isinstance(each, dict)]
    counts = {each.get("neuron_device"): each.get("nc_count") for each in objects}
    notes.say("neuron-ls: " + ", ".join(f"device {index} with {count} cores" for index, count in counts.items()))
    ours = {device.index: device.physical_cores for device in host.usable_devices}
    notes.expect(set(counts) == set(ours), f"neuron-ls lists devices {sorted(map(str, counts))}, we found {list(ours)}")
    for index, physical in ours.items():
        is_same = counts.get(index, physical) in (None, physical, physical // host.lnc)
        notes.expect(is_same, f"device {index} has {counts.get(index)} cores for neuron-ls and {physical} for us")
