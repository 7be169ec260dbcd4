"""The instance types that a plan can be made for.

Counts and memory are those of the AWS Neuron documentation (SDK 2.32), pages "Inf2", "Trn1" and "Trn2 Architecture".
`trn2.3xlarge` is named there without its host's figures, so a plan for it says nothing of the host; Trn3 comes in
UltraServers, of which no figures per host are published. A plan stays inside one host.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ranvier.errors import OptionError
from ranvier.neuron_host import GIB, INFERENTIA2, TRAINIUM1, TRAINIUM2, Chip


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An EC2 instance type: `num_chips` chips, `vcpus` and `host_bytes` of memory, None where not published."""

    name: str
    chip: Chip
    num_chips: int
    vcpus: int | None
    host_bytes: int | None

    def num_cores(self, lnc: int) -> int:
        """Logical NeuronCores."""
        return self.num_chips * self.chip.num_cores(lnc)


def _row(name: str, chip: Chip, num_chips: int, vcpus: int | None, host_gib: int | None) -> Instance:
    host_bytes = None if host_gib is None else host_gib * GIB
    return Instance(name=name, chip=chip, num_chips=num_chips, vcpus=vcpus, host_bytes=host_bytes)


INSTANCES: tuple[Instance, ...] = (
    _row("inf2.xlarge", INFERENTIA2, 1, 4, 16),
    _row("inf2.8xlarge", INFERENTIA2, 1, 32, 128),
    _row("inf2.24xlarge", INFERENTIA2, 6, 96, 384),
    _row("inf2.48xlarge", INFERENTIA2, 12, 192, 768),
    _row("trn1.2xlarge", TRAINIUM1, 1, 8, 32),
    _row("trn1.32xlarge", TRAINIUM1, 16, 128, 512),
    _row("trn1n.32xlarge", TRAINIUM1, 16, 128, 512),
    _row("trn2.3xlarge", TRAINIUM2, 1, None, None),
    _row("trn2.48xlarge", TRAINIUM2, 16, 192, 2048),
    _row("trn2u.48xlarge", TRAINIUM2, 16, 192, 2048),
)
"""From small to large within a family."""


def find_instance(name: str) -> Instance:
    """The instance type of this name, in any case, with or without SageMaker's `ml.`. Raises `OptionError`."""
    wanted = name.strip().lower().removeprefix("ml.")
    by_name = {instance.name: instance for instance in INSTANCES}
    if wanted in by_name:
        return by_name[wanted]
    near = difflib.get_close_matches(wanted, by_name, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise OptionError(f"`instance` must be one of {', '.join(by_name)}. Given: `{name}`{hint}")
