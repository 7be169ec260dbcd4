"""Finding Neuron devices by reading files, without any tool, any library and the network.

What is read, below a root that tests replace:

    dev/neuron<N>                                      one per device that this process may see
    sys/devices/virtual/neuron_device/neuron<N>/       core_count, neuron_core<K>/, info/architecture/*
    sys/module/neuron/version                          the driver's version
    sys/devices/virtual/dmi/id/product_name            the instance type
    opt/aws/neuron/lib/libnrt.so.<version>             the runtime's version

The instance metadata service is never asked. Sources: AWS Neuron documentation, "Neuron Sysfs User Guide"; the order
of the instance name is that of optimum-neuron. Nothing is written: writing `reset` there resets a device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ranvier.errors import OptionError
from ranvier.neuron_host.chips import Chip, chip_of
from ranvier.neuron_host.cores import CoreChoice, format_cores, read_core_choice, read_lnc
from ranvier.neuron_host.files import first_line, names_in
from ranvier.neuron_host.host import NeuronDevice, NeuronHost

INSTANCE_VARIABLES = ("RANVIER_INSTANCE", "SM_CURRENT_INSTANCE_TYPE")
"""Variables that name the instance type, strongest first; the second is SageMaker's, as in `ml.inf2.xlarge`."""

_SYSFS = "sys/devices/virtual/neuron_device"
_DMI = "sys/devices/virtual/dmi/id/product_name"
_DRIVER = "sys/module/neuron/version"
_LIBRARIES = "opt/aws/neuron/lib"
_DEVICE = re.compile(r"neuron([0-9]{1,4})", re.ASCII)
_CORE = re.compile(r"neuron_core[0-9]{1,4}", re.ASCII)
_LIBNRT = re.compile(r"libnrt\.so\.([0-9]+(?:\.[0-9]+)+)", re.ASCII)


def may_open(path: Path) -> bool:
    """Whether this process may read and write a device file."""
    return os.access(path, os.R_OK | os.W_OK)


def discover(
    root: Path = Path("/"), environ: Mapping[str, str] | None = None, can_open: Callable[[Path], bool] = may_open
) -> NeuronHost:
    """Look at a host. `environ` is this process's by default; files that are missing or unreadable are tolerated.

    Raises `OptionError` for a variable of the Neuron runtime that is wrong, contradicts another, or names cores that
    the devices do not have.
    """
    variables = os.environ if environ is None else environ
    instance, source = _instance_type(root, variables)
    chip = _chip(root, instance)
    lnc, lnc_source = read_lnc(variables, chip)
    mapped, listed = _indices(root / "dev"), _indices(root / _SYSFS)
    devices = tuple(_device(root, index, listed, chip, can_open) for index in mapped)
    driver, runtime = first_line(root / _DRIVER), _runtime_version(root / _LIBRARIES)
    host = NeuronHost(
        devices=devices,
        unmapped=tuple(index for index in listed if index not in mapped),
        chip=chip,
        instance_type=instance,
        instance_source=source,
        lnc=lnc,
        lnc_source=lnc_source,
        driver_version=driver,
        runtime_version=runtime,
        choice=read_core_choice(variables),
        notes=tuple(note for note in (*_odd_files(devices, chip, driver), version_conflict(driver, runtime)) if note),
    )
    _check_ids(host.choice, host)
    return host


def version_conflict(driver: str | None, runtime: str | None) -> str:
    """Say why this driver and this runtime do not go together; empty where nothing is known against it.

    From the release notes of SDK 2.31 and 2.32: runtime 2.32 does not start on drivers up to 2.26, and driver 2.29
    needs runtime 2.33.
    """
    driver_number, runtime_number = _version(driver), _version(runtime)
    if driver_number is None or runtime_number is None:
        return ""
    if driver_number >= (2, 29) and runtime_number < (2, 33):
        return f"driver {driver} needs runtime 2.33 or later, found {runtime}: update aws-neuronx-runtime-lib"
    if runtime_number >= (2, 32) and driver_number < (2, 27):
        return f"runtime {runtime} needs a driver later than 2.26, found {driver}: update aws-neuronx-dkms on the host"
    return ""


def _version(text: str | None) -> tuple[int, int] | None:
    match = re.match(r"([0-9]{1,6})\.([0-9]{1,6})", text or "", re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def _instance_type(root: Path, environ: Mapping[str, str]) -> tuple[str | None, str]:
    for variable in INSTANCE_VARIABLES:
        value = environ.get(variable, "").strip().lower().removeprefix("ml.")
        if value:
            return value, f"variable {variable}"
    product = first_line(root / _DMI)
    # Other makers' product names, of a laptop say, are no instance types.
    if product and chip_of(product):
        return product.lower(), "DMI product_name"
    return None, ""


def _chip(root: Path, instance: str | None) -> Chip | None:
    names = [instance] if instance else []
    for index in _indices(root / _SYSFS):
        architecture = root / _SYSFS / f"neuron{index}" / "info" / "architecture"
        names += [
            text
            for text in (first_line(architecture / "instance_type"), first_line(architecture / "device_name"))
            if text
        ]
    return next((chip for chip in map(chip_of, names) if chip), None)


def _device(
    root: Path, index: int, listed: tuple[int, ...], chip: Chip | None, can_open: Callable[[Path], bool]
) -> NeuronDevice:
    cores = _physical_cores(root / _SYSFS / f"neuron{index}") or (chip.physical_cores if chip else 0)
    fault = ""
    if listed and index not in listed:
        fault = "is in /dev but not in sysfs: it is being removed or reset, or the driver lost it; see `dmesg`"
    elif not can_open(root / "dev" / f"neuron{index}"):
        fault = "cannot be opened: permission denied; run as a user who may read and write it"
    elif not cores:
        fault = "has an unknown number of cores: neither sysfs nor the instance type tells"
    return NeuronDevice(index=index, physical_cores=cores, fault=fault)


def _physical_cores(sysfs: Path) -> int:
    text = first_line(sysfs / "core_count") or ""
    if re.fullmatch(r"[0-9]{1,3}", text, re.ASCII):
        return int(text)
    # Driver 2.31 moved files of this tree; the cores' folders stand for the count.
    return sum(1 for name in names_in(sysfs) if _CORE.fullmatch(name))


def _odd_files(devices: tuple[NeuronDevice, ...], chip: Chip | None, driver: str | None) -> tuple[str, ...]:
    faults = [f"{device.path} {device.fault}" for device in devices if device.fault]
    if devices and driver is None:
        faults.append("the driver's version is unknown: /sys/module/neuron/version is missing")
    if chip is not None:
        odd = [device for device in devices if device.physical_cores not in (0, chip.physical_cores)]
        faults += [
            f"{device.path} has {device.physical_cores} cores where {chip.name} has {chip.physical_cores}"
            for device in odd
        ]
    return tuple(faults)


def _check_ids(choice: CoreChoice, host: NeuronHost) -> None:
    if choice.ids is None or not host.num_cores or choice.ids[-1] < host.num_cores:
        return
    missing = format_cores(core for core in choice.ids if core >= host.num_cores)
    raise OptionError(
        f"`{choice.source}` names core {missing}, but the usable devices have cores "
        f"{format_cores(range(host.num_cores))} (LNC {host.lnc})"
    )


def _runtime_version(libraries: Path) -> str | None:
    """The longest version among `libnrt.so.1` (a link) and `libnrt.so.2.31.24.0` (the file)."""
    found = [match[1] for match in map(_LIBNRT.fullmatch, names_in(libraries)) if match]
    return max(found, key=lambda version: tuple(map(int, version.split("."))), default=None)


def _indices(directory: Path) -> tuple[int, ...]:
    return tuple(sorted(int(match[1]) for match in map(_DEVICE.fullmatch, names_in(directory)) if match))
