"""Finding Neuron devices and cores by reading files; no device library is loaded."""

from ranvier.neuron_host.acquire import Holder, acquire, find_holders, looks_busy
from ranvier.neuron_host.chips import (
    BYTES_PER_VALUE,
    CHIPS,
    GIB,
    INFERENTIA2,
    TRAINIUM1,
    TRAINIUM2,
    TRAINIUM3,
    CastType,
    Chip,
    chip_of,
)
from ranvier.neuron_host.compile_cache import drop_damaged
from ranvier.neuron_host.compilers import compile_target, neuron_compiler_version, xla_version
from ranvier.neuron_host.cores import CoreChoice, format_cores, parse_cores, read_core_choice, read_lnc
from ranvier.neuron_host.discovery import INSTANCE_VARIABLES, discover, version_conflict
from ranvier.neuron_host.environment import COMPILE_CACHE, core_environment, jax_environment
from ranvier.neuron_host.host import NeuronDevice, NeuronHost

__all__ = [
    "BYTES_PER_VALUE",
    "CHIPS",
    "COMPILE_CACHE",
    "GIB",
    "INFERENTIA2",
    "INSTANCE_VARIABLES",
    "TRAINIUM1",
    "TRAINIUM2",
    "TRAINIUM3",
    "CastType",
    "Chip",
    "CoreChoice",
    "Holder",
    "NeuronDevice",
    "NeuronHost",
    "acquire",
    "chip_of",
    "compile_target",
    "core_environment",
    "discover",
    "drop_damaged",
    "find_holders",
    "format_cores",
    "jax_environment",
    "looks_busy",
    "neuron_compiler_version",
    "parse_cores",
    "read_core_choice",
    "read_lnc",
    "version_conflict",
    "xla_version",
]
