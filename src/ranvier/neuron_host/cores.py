"""The variables of the Neuron runtime that say which cores a process takes, read as the runtime reads them.

`NEURON_RT_VISIBLE_CORES` has ids and ranges of logical cores (`0-3,6`) and is stronger than `NEURON_RT_NUM_CORES`, a
count where 0 means all; `NEURON_LOGICAL_NC_CONFIG` is 1 or 2 (AWS Neuron documentation, "Neuron Runtime
configuration" and "Logical NeuronCore configuration").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ranvier.errors import OptionError
from ranvier.neuron_host.chips import Chip

VISIBLE_CORES = "NEURON_RT_VISIBLE_CORES"
NUM_CORES = "NEURON_RT_NUM_CORES"
LOGICAL_NC_CONFIG = "NEURON_LOGICAL_NC_CONFIG"

_MAX_CORE = 4095
"""Far more than any machine has; keeps `0-9999999999` from filling the memory."""
_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreChoice:
    """Which cores the environment gives this process.

    `ids`: logical cores, ascending, or None for any. `count`: how many, or None for all. `source`: the variable that
    decided, or empty.
    """

    ids: tuple[int, ...] | None = None
    count: int | None = None
    source: str = ""


def parse_cores(text: str, name: str = VISIBLE_CORES) -> tuple[int, ...]:
    """Core ids, ascending, out of ids and ranges. Raises `OptionError` for anything else and for a core named twice.

    >>> parse_cores("6,0-3")
    (0, 1, 2, 3, 6)
    """
    ids: list[int] = []
    for part in text.split(","):
        ids += _range(part.strip(), text, name)
    twice = sorted({core for core in ids if ids.count(core) > 1})
    if twice:
        raise OptionError(f"`{name}` names core {format_cores(twice)} more than once. Given: `{text}`")
    return tuple(sorted(ids))


def _range(part: str, text: str, name: str) -> range:
    match = _PART.fullmatch(part)
    if match is None:
        raise OptionError(f"`{name}` must be core ids and ranges such as `0-3,6`. Given: `{text}`")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise OptionError(f"`{name}` has the range `{part}`, which ends before it begins. Given: `{text}`")
    if last > _MAX_CORE:
        raise OptionError(f"`{name}` must name cores from 0 to {_MAX_CORE}. Given: `{text}`")
    return range(first, last + 1)


def format_cores(ids: Iterable[int]) -> str:
    """Ids as ranges, the way `parse_cores` reads them.

    >>> format_cores((0, 1, 2, 3, 6))
    '0-3,6'
    """
    runs: list[list[int]] = []
    for core in ids:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def read_core_choice(environ: Mapping[str, str]) -> CoreChoice:
    """What the two variables say together. Raises `OptionError` for a bad value or when they contradict each other.

    A variable that is set and empty counts as not set: container templates leave such behind.
    """
    visible, count = environ.get(VISIBLE_CORES, "").strip(), _read_count(environ.get(NUM_CORES, "").strip())
    if not visible:
        return CoreChoice(count=count, source=NUM_CORES if count else "")
    ids = parse_cores(visible)
    if count is not None and count != len(ids):
        raise OptionError(
            f"`{VISIBLE_CORES}` names {len(ids)} cores (`{visible}`) and `{NUM_CORES}` is {count}; "
            f"unset one of them, or make them agree"
        )
    return CoreChoice(ids=ids, count=len(ids), source=VISIBLE_CORES)


def _read_count(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) > _MAX_CORE + 1:
        raise OptionError(
            f"`{NUM_CORES}` must be a whole number from 0 (all cores) to {_MAX_CORE + 1}. Given: `{text}`"
        )
    return int(text) or None


def read_lnc(environ: Mapping[str, str], chip: Chip | None) -> tuple[int, str]:
    """Return the logical core configuration and the variable it comes from, or "" where it is the chip's default.

    Raises `OptionError` for a value that is not 1 or 2, or that the chip cannot have.
    """
    text = environ.get(LOGICAL_NC_CONFIG, "").strip()
    if not text:
        return (chip.default_lnc if chip else 1), ""
    if text not in ("1", "2"):
        raise OptionError(f"`{LOGICAL_NC_CONFIG}` must be 1 or 2. Given: `{text}`")
    if chip is not None and int(text) not in chip.lncs:
        allowed = " or ".join(map(str, chip.lncs))
        raise OptionError(f"`{LOGICAL_NC_CONFIG}` must be {allowed} on {chip.name}. Given: {text}")
    return int(text), LOGICAL_NC_CONFIG
