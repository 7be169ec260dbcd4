"""The CPU target, on OpenVINO's paged attention."""

import ranvier.targets.cpu.telemetry  # noqa: F401  # before OpenVINO

# isort: split
from ranvier.targets.cpu.programs import CpuOptions, CpuPrograms, load_cpu

__all__ = ["CpuOptions", "CpuPrograms", "load_cpu"]
