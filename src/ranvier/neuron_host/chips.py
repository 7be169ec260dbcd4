"""The Neuron chips: cores, memory, bandwidth, arithmetic.

Figures are those of the AWS Neuron documentation (SDK 2.32), pages "Inferentia2", "Trainium", "Trainium2" and
"Trainium3 Architecture" and the instance tables. Memory is in GiB there, bandwidth in GiB/s for the first two and in
TB/s for the others. What a logical core has is the chip's share of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 2**30

CastType = Literal["bf16", "fp16", "fp32"]
"""The type of weights, activations and KV cache."""

BYTES_PER_VALUE: dict[CastType, int] = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One Neuron device.

    * `target`: what the compiler calls it. `core_generation`: 2 for NeuronCore-v2, and so on.
    * `physical_cores`: as the driver counts them. `lncs`: the logical core configurations it can have, that is how many
      physical cores are used as one; `default_lnc` is the runtime's default.
    * `memory_bytes`, `bandwidth` (bytes/s) of its HBM. `bf16_flops` (float16 is the same) and `fp32_flops`: dense
      operations/s.
    """

    name: str
    target: str
    core_generation: int
    physical_cores: int
    lncs: tuple[int, ...]
    default_lnc: int
    memory_bytes: int
    bandwidth: float
    bf16_flops: float
    fp32_flops: float

    def num_cores(self, lnc: int) -> int:
        """Logical cores of one chip."""
        return self.physical_cores // lnc

    def core_memory(self, lnc: int) -> int:
        """HBM of one logical core, bytes."""
        return self.memory_bytes // self.num_cores(lnc)

    def core_bandwidth(self, lnc: int) -> float:
        """HBM bandwidth of one logical core, bytes/s."""
        return self.bandwidth / self.num_cores(lnc)

    def core_flops(self, cast_type: CastType, lnc: int) -> float:
        """Peak of one logical core, operations/s."""
        return (self.fp32_flops if cast_type == "fp32" else self.bf16_flops) / self.num_cores(lnc)


INFERENTIA2 = Chip(
    name="Inferentia2",
    target="inf2",
    core_generation=2,
    physical_cores=2,
    lncs=(1,),
    default_lnc=1,
    memory_bytes=32 * GIB,
    bandwidth=820 * GIB,
    bf16_flops=190e12,
    fp32_flops=47.5e12,
)
TRAINIUM1 = Chip(
    name="Trainium1",
    target="trn1",
    core_generation=2,
    physical_cores=2,
    lncs=(1,),
    default_lnc=1,
    memory_bytes=32 * GIB,
    bandwidth=820 * GIB,
    bf16_flops=190e12,
    fp32_flops=47.5e12,
)
TRAINIUM2 = Chip(
    name="Trainium2",
    target="trn2",
    core_generation=3,
    physical_cores=8,
    lncs=(1, 2),
    default_lnc=2,
    memory_bytes=96 * GIB,
    bandwidth=2.9e12,
    bf16_flops=667e12,
    fp32_flops=181e12,
)
TRAINIUM3 = Chip(
    name="Trainium3",
    target="trn3",
    core_generation=4,
    physical_cores=8,
    lncs=(1, 2),
    default_lnc=2,
    memory_bytes=144 * GIB,
    bandwidth=4.9e12,
    bf16_flops=671e12,
    fp32_flops=183e12,
)

CHIPS = (INFERENTIA2, TRAINIUM1, TRAINIUM2, TRAINIUM3)

_FAMILIES = {
    "inf2": INFERENTIA2,
    "inferentia2": INFERENTIA2,
    "trn1": TRAINIUM1,
    "trn1n": TRAINIUM1,
    "trainium1": TRAINIUM1,
    "trainium": TRAINIUM1,
    "trn2": TRAINIUM2,
    "trn2u": TRAINIUM2,
    "trainium2": TRAINIUM2,
    "trn3": TRAINIUM3,
    "trn3u": TRAINIUM3,
    "trainium3": TRAINIUM3,
}


def chip_of(name: str) -> Chip | None:
    """The chip of an instance type or a device name, in any case; None for what we do not know.

    >>> chip_of("trn1n.32xlarge").name, chip_of("Inf2").name
    ('Trainium1', 'Inferentia2')
    """
    return _FAMILIES.get(name.strip().lower().partition(".")[0])
