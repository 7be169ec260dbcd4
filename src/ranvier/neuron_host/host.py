"""What a host has of Neuron, as values: devices, cores, versions, and what a process may take of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ranvier.errors import OptionError
from ranvier.neuron_host.chips import Chip
from ranvier.neuron_host.cores import VISIBLE_CORES, CoreChoice, format_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronDevice:
    """A chip that this process can see: `/dev/neuron<index>`.

    `physical_cores` is 0 where it is not known. `fault`: why it cannot be used; empty for one that can.
    """

    index: int
    physical_cores: int
    fault: str = ""

    @property
    def path(self) -> str:
        """The device file."""
        return f"/dev/neuron{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronHost:
    """Everything that discovery found; nothing in it is read again later.

    * `devices`: by index, those with a fault included. `unmapped`: indices that the driver lists and `/dev` lacks, as
      in a container that was given some devices only.
    * `chip`, `instance_type`: None where unknown; `instance_source` says where the name was read.
    * `lnc`: physical cores per logical core; `lnc_source` is the variable that set it, or empty for the default.
    * `driver_version`, `runtime_version`: of the kernel module and of libnrt, None where not found.
    * `choice`: what the environment gives this process. `notes`: sentences for the log, each about one oddity.
    """

    devices: tuple[NeuronDevice, ...]
    unmapped: tuple[int, ...]
    chip: Chip | None
    instance_type: str | None
    instance_source: str
    lnc: int
    lnc_source: str
    driver_version: str | None
    runtime_version: str | None
    choice: CoreChoice
    notes: tuple[str, ...] = ()

    @property
    def usable_devices(self) -> tuple[NeuronDevice, ...]:
        """Devices without a fault."""
        return tuple(device for device in self.devices if not device.fault)

    @property
    def num_cores(self) -> int:
        """Logical cores on the usable devices; their ids are 0 up to this."""
        return sum(device.physical_cores // self.lnc for device in self.usable_devices)

    @property
    def num_available(self) -> int:
        """Logical cores that this process may take: at most what the environment gives it."""
        limit = self.choice.count
        return self.num_cores if limit is None else min(limit, self.num_cores)

    def describe(self) -> tuple[str, ...]:
        """Lines for the log: instance, versions, devices, cores, and each note as a warning."""
        return (
            f"instance: {self._instance()}",
            f"driver: {self.driver_version or 'not found'}, runtime: {self.runtime_version or 'not found'}",
            f"devices: {self._devices()}",
            f"cores: {self._cores()}",
            *(f"warning: {note}" for note in self.notes),
        )

    def require_cores(self, count: int) -> None:
        """Raise `OptionError` unless this process may take `count` logical cores; it says what to do."""
        if not self.usable_devices:
            raise OptionError(f"`target` neuron needs a Neuron device: {self._why_none()}")
        if count > self.num_cores:
            raise OptionError(f"`num_cores` is {count}, but {self._too_few(count)}")
        if count > self.num_available:
            raise OptionError(
                f"`num_cores` is {count}, but `{self.choice.source}` gives this process {self.num_available}; "
                f"raise it or unset it (this host has cores {format_cores(range(self.num_cores))})"
            )

    def _instance(self) -> str:
        name = f"{self.instance_type} (from {self.instance_source})" if self.instance_type else "unknown"
        return f"{name}, {self.chip.name if self.chip else 'no known Neuron chip'}"

    def _devices(self) -> str:
        usable = self.usable_devices
        parts = [f"{len(usable)} usable"]
        if usable:
            parts[0] += f" (/dev/neuron{format_cores(device.index for device in usable)})"
        parts += [f"{device.path} {device.fault}" for device in self.devices if device.fault]
        return ", ".join(parts)

    def _cores(self) -> str:
        lnc = f"LNC {self.lnc} by {self.lnc_source or 'default'}"
        if self.choice.ids is not None:
            return f"{format_cores(self.choice.ids)} of {self.num_cores} by {VISIBLE_CORES}, {lnc}"
        source = f" by {self.choice.source}" if self.choice.source else ""
        return f"{self.num_available} of {self.num_cores}{source}, {lnc}"

    def _why_none(self) -> str:
        if self.devices:
            return "; ".join(f"{device.path} {device.fault}" for device in self.devices)
        if self.unmapped:
            flag = f"--device=/dev/neuron{self.unmapped[0]}"
            return (
                f"the driver lists {len(self.unmapped)} devices, but /dev has none of them; "
                f"start the container with {flag} for each device"
            )
        if self.driver_version is None:
            return (
                "no /dev/neuron0 and no driver (/sys/module/neuron/version); install the package aws-neuronx-dkms on "
                "an inf2, trn1, trn2 or trn3 instance, or start the container with --device=/dev/neuron0"
            )
        return f"driver {self.driver_version} is loaded but there is no /dev/neuron0; see `dmesg` of the host"

    def _too_few(self, count: int) -> str:
        usable = self.usable_devices
        per_device = max(1, max(device.physical_cores for device in usable) // self.lnc)
        needed = math.ceil(count / per_device)
        have = "device has" if len(usable) == 1 else "devices have"
        faults = "".join(f"; {device.path} {device.fault}" for device in self.devices if device.fault)
        return f"{len(usable)} usable {have} {self.num_cores} NeuronCores{faults}; {self._exposing(needed, per_device)}"

    def _exposing(self, needed: int, per_device: int) -> str:
        indices = sorted([*(device.index for device in self.devices), *self.unmapped])
        if not self.unmapped:
            flags = " ".join(f"--device=/dev/neuron{index}" for index in range(needed))
            return f"take fewer cores, a larger instance, or, in a container, expose {needed} devices: {flags}"
        if len(indices) < needed:
            return f"all {len(indices)} devices of this host have {len(indices) * per_device}; take fewer cores"
        flags = " ".join(f"--device=/dev/neuron{index}" for index in indices[:needed])
        return f"expose {needed} devices to the container: {flags}"
