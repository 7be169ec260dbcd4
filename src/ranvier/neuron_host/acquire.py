"""Taking cores: patience with cores that are released late, and who holds them when they are not.

Cores belong to one process from their first use to its end; after a kill the release is sometimes late
(aws-neuron/aws-neuron-sdk#1338).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ranvier.errors import SetupError
from ranvier.neuron_host.files import first_line, link_target, names_in

_Taken = TypeVar("_Taken")

ATTEMPTS = 6
FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each pause is twice the one before, 31 s in all."""

_BUSY = re.compile(r"nrt_allocate_neuron_cores|NRT_RESOURCE|resource busy|already in use|in use by", re.IGNORECASE)
_DEVICE_FILE = re.compile(r"/dev/neuron[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A process that has a device file open. `command` is its name, at most 15 characters on Linux."""

    pid: int
    command: str
    device: str

    def __str__(self) -> str:
        return f"{self.device}: process {self.pid} ({self.command})"


def find_holders(root: Path = Path("/")) -> tuple[Holder, ...]:
    """Processes that have a `/dev/neuron<N>` open, as far as this user may see.

    Those of other containers are not seen.
    """
    found: set[Holder] = set()
    for pid in filter(str.isdecimal, names_in(root / "proc")):
        process = root / "proc" / pid
        for link in names_in(process / "fd"):
            device = link_target(process / "fd" / link)
            if _DEVICE_FILE.fullmatch(device):
                found.add(Holder(int(pid), first_line(process / "comm") or "unknown", device))
    return tuple(sorted(found))


def looks_busy(error: Exception) -> bool:
    """Whether an error of the runtime says that cores are taken, by its text: the runtime has no class for it."""
    return _BUSY.search(str(error)) is not None


def acquire(
    claim: Callable[[], _Taken],
    cores: str,
    *,
    holders: Callable[[], tuple[Holder, ...]] = find_holders,
    pause: Callable[[float], None] = time.sleep,
    report: Callable[[str], None] = lambda line: None,
    attempts: int = ATTEMPTS,
) -> _Taken:
    """Call `claim`, which takes `cores` (a text such as `0-3`), until it works, with pauses while they are taken.

    `report` gets a line before each pause. An error that does not look like cores being taken goes through at once.
    Raises `SetupError`, which names the processes that hold the devices, after the last attempt.
    """
    for attempt in range(1, attempts):
        try:
            return claim()
        except Exception as error:
            if not looks_busy(error):
                raise
            seconds = FIRST_PAUSE * 2 ** (attempt - 1)
            report(f"NeuronCores {cores} are taken; attempt {attempt + 1} of {attempts} in {seconds:g} s")
        pause(seconds)
    try:
        return claim()
    except Exception as error:
        if not looks_busy(error):
            raise
        raise SetupError(_refusal(cores, attempts, error, holders())) from error


def _refusal(cores: str, attempts: int, error: Exception, holders: tuple[Holder, ...]) -> str:
    others = [holder for holder in holders if holder.pid != os.getpid()]
    who = "; ".join(map(str, others))
    advice = (
        f"held by {who}: end that process or choose other cores with `NEURON_RT_VISIBLE_CORES`"
        if others
        else "no process seen from here holds a device: it may run in another container or as another user "
        "(`neuron-ls` on the host shows it), or the driver releases late"
    )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"NeuronCores {cores} could not be taken in {attempts} attempts ({reason}); {advice}"
