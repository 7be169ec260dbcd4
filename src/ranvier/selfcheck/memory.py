"""Memory of the cores and of the host against the plan's estimates."""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ranvier.neuron_host import GIB
from ranvier.planner.buckets import LARGEST_PREFILL
from ranvier.planner.memory import CoreMemory, Shape, core_memory, host_memory
from ranvier.planner.sharding import share_of
from ranvier.selfcheck.outcome import Notes, SkippedStep

if TYPE_CHECKING:
    from ranvier.selfcheck.device_steps import Device

SYSFS = "sys/devices/virtual/neuron_device"
_CORE = re.compile(r"neuron_core([0-9]+)")
_MIB = 2**20


def device_memory(root: Path) -> dict[str, dict[str, int]]:
    """Bytes that each physical core (`neuron0/core1`) has in use now, by the driver's categories, none left out.

    Files that are missing or unreadable are not there; see `stats/memory_usage/device_mem` of the driver's sysfs tree,
    whose `total` is the current use.
    """
    found: dict[str, dict[str, int]] = {}
    for core in sorted((root / SYSFS).glob("neuron[0-9]*/neuron_core[0-9]*")):
        if not _CORE.fullmatch(core.name):
            continue
        sizes = {path.parent.name: _number(path) for path in core.glob("stats/memory_usage/device_mem/*/total")}
        name = f"{core.parent.name}/core{core.name.removeprefix('neuron_core')}"
        found[name] = {category: size for category, size in sorted(sizes.items()) if size is not None}
    return {name: sizes for name, sizes in found.items() if sizes}


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def check_memory(device: Device, notes: Notes) -> None:
    """The cores' memory while the artifact is loaded, and the host's while it was exported and loaded."""
    manifest, neuron = device.artifact.manifest, device.neuron
    share = share_of(device.spec, neuron.num_cores)
    shape = Shape(
        batch_size=manifest.batch_size,
        sequence_length=manifest.sequence_length,
        largest_prefill=LARGEST_PREFILL,
        cast_type=device.cast_type,
    )
    planned = core_memory(device.spec, share, shape)
    found = device_memory(Path(device.order.root))
    check_cores(found, planned, device.host.lnc, notes)
    _check_host(device, notes)
    if not found:
        raise SkippedStep("the cores' memory could not be looked at: the driver's files are not there or not readable")


def check_cores(found: Mapping[str, Mapping[str, int]], planned: CoreMemory, lnc: int, notes: Notes) -> None:
    """Each core against the plan; a logical core has the memory of `lnc` physical ones."""
    arrays = planned.weights + planned.kv_cache + planned.counts
    notes.say(
        f"plan, a core: {_mib(arrays)} for weights, KV cache and counts, {_mib(planned.total)} with all estimates"
    )
    for name, sizes in found.items():
        used = sum(sizes.values())
        if used == 0:
            continue
        parts = ", ".join(f"{category} {_mib(size)}" for category, size in sizes.items() if size)
        notes.say(f"{name}: {_mib(used)}: {parts}")
        # Each is held to a logical core's plan: how the runtime shares between the halves of one is its affair.
        notes.expect(used <= planned.total, f"{name} takes more than the plan's {_mib(planned.total)}")
    if found and lnc > 1:
        notes.say(f"a logical core is {lnc} of these")


def _check_host(device: Device, notes: Notes) -> None:
    planned = host_memory(device.spec, share_of(device.spec, device.neuron.num_cores), device.cast_type)
    peak, loaded = device.order.export_peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    exporting = f"{_mib(peak)} at the most, all processes together" if peak else "not seen"
    notes.say(
        f"host, exporting: {exporting}; plan: {_mib(planned.compile_one)} "
        f"with one program in the compiler, {_mib(planned.each_more)} for each more"
    )
    notes.say(f"host, this process with the model loaded: {_mib(loaded)} at the most; plan: {_mib(planned.load)}")
    notes.expect(loaded <= planned.load, "loading takes more host memory than planned")


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB else f"{num_bytes / _MIB:.1f} MiB"
