"""The CPU target, on OpenVINO's paged attention."""

from ranvier.targets.cpu.programs import CpuOptions, CpuPrograms, load_cpu

__all__ = ["CpuOptions", "CpuPrograms", "load_cpu"]
