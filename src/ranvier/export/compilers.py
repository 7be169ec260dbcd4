"""Which compiler an export can use on this host."""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from ranvier.export.process_memory import host_bytes
from ranvier.neuron_host import compile_target, discover, neuron_compiler_version, xla_version
from ranvier.planner.memory import COMPILE_BASE_BYTES, HOST_BASE_BYTES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A compiler, what it compiles for, and how many programs at a time this host's memory and cores take.

    `platform`: `neuron` or `cpu`. `target`: the chip (`trn1` stands for Inferentia2 too), or the processor.
    """

    platform: str
    version: str
    target: str
    lnc: int
    jobs: int


def find_compiler(compile_for: str | None, root: Path = Path("/")) -> Compiler | None:
    """The compiler for `cpu` or `neuron`; None where nothing is to be compiled, and on a host without it.

    Raises `OptionError` when there is no device of that kind.
    """
    if compile_for is None:
        return None
    if compile_for == "cpu":
        jobs = max(1, len(os.sched_getaffinity(0)))
        return Compiler(platform="cpu", version=xla_version(), target=platform.machine(), lnc=1, jobs=jobs)
    host = discover(root)
    host.require_cores(1)
    version = neuron_compiler_version()
    if version is None:
        _log.warning("no Neuron compiler is installed here, so nothing is compiled; pip install jax-neuronx[stable]")
        return None
    return Compiler(
        platform="neuron",
        version=version,
        target=compile_target(host.chip.target if host.chip else None),
        lnc=host.lnc,
        jobs=_jobs(),
    )


def _jobs() -> int:
    """As many compilers as memory is estimated to hold, at most one for each processor."""
    available = host_bytes()
    most = os.cpu_count() or 1
    if available is None:
        return 1
    return max(1, min(most, (available - HOST_BASE_BYTES) // COMPILE_BASE_BYTES))
