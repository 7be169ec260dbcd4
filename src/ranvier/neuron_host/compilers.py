"""Names and versions of compilers, as artifacts keep them."""

from __future__ import annotations

import importlib.metadata

XLA_CPU = "xla-cpu"
_NEURON_PACKAGES = ("neuronx-cc", "libneuronxla")


def xla_version() -> str:
    """The compiler that stands in for the Neuron compiler."""
    return f"{XLA_CPU} {importlib.metadata.version('jaxlib')}"


def neuron_compiler_version() -> str | None:
    """Versions of the Neuron compiler and of its plug-in for JAX; None where one is missing."""
    try:
        found = [f"{name} {importlib.metadata.version(name)}" for name in _NEURON_PACKAGES]
    except importlib.metadata.PackageNotFoundError:
        return None
    return ", ".join(found)


def compile_target(chip_target: str | None) -> str:
    """What the compiler's programs run on; those for Inferentia2 and Trainium1 are the same."""
    return "trn1" if chip_target == "inf2" else chip_target or "unknown"
