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
from ranvier.neuron_host.cores import CoreChoice, format_cores, parse_cores, read_core_choice, read_lnc
from ranvier.neuron_host.discovery import INSTANCE_VARIABLES, discover, version_conflict
from ranvier.neuron_host.host import NeuronDevice, NeuronHost

__all__ = [
    "BYTES_PER_VALUE",
    "CHIPS",
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
    "discover",
    "find_holders",
    "format_cores",
    "looks_busy",
    "parse_cores",
    "read_core_choice",
    "read_lnc",
    "version_conflict",
]
