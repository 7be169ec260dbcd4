"""Roots of file systems as they look on Neuron instances, for discovery.

    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)

Device files are plain files. Values are those of the driver's sysfs tree: `core_count` has physical cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SYSFS = "sys/devices/virtual/neuron_device"
ARCHITECTURES = {
    "inf2": ("Inf2", "Inferentia2"),
    "trn1": ("Trn1", "Trainium1"),
    "trn1n": ("Trn1n", "Trainium1"),
    "trn2": ("Trn2", "Trainium2"),
}


def put(root: Path, name: str, text: str = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def neuron_root(
    root: Path,
    instance: str,
    *,
    devices: int,
    cores: int,
    mapped: Iterable[int] | None = None,
    driver: str = "2.24.7.0",
    runtime: str = "2.28.23.0",
) -> Path:
    """An instance with `devices` chips of `cores` physical cores; only those in `mapped` are in `/dev`."""
    put(root, "sys/devices/virtual/dmi/id/product_name", f"{instance}\n")
    put(root, "sys/module/neuron/version", f"{driver}\n")
    put(root, "opt/aws/neuron/lib/libnrt.so.1")
    put(root, f"opt/aws/neuron/lib/libnrt.so.{runtime}")
    put(root, "dev/null")
    for index in range(devices) if mapped is None else mapped:
        put(root, f"dev/neuron{index}")
    for index in range(devices):
        _sysfs_device(root / SYSFS / f"neuron{index}", instance, cores)
    return root


def _sysfs_device(device: Path, instance: str, cores: int) -> None:
    instance_type, device_name = ARCHITECTURES[instance.partition(".")[0]]
    put(device, "core_count", f"{cores}\n")
    put(device, "info/architecture/instance_type", f"{instance_type}\n")
    put(device, "info/architecture/device_name", f"{device_name}\n")
    for core in range(cores):
        put(device, f"neuron_core{core}/info/architecture/arch_type", "NCv2\n")
