"""Orders to the processes of a self-check (`python -m ranvier.selfcheck.child`) and what they tell, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from ranvier.selfcheck.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOrder:
    """Carry out `steps`, in this order, after loading what they work on.

    * `job`: `reference` answers the questions on this machine's processor, `devices` checks an artifact.
    * `folder`: where the tiny model's files, its packed weights and the answers are. `artifact`: the one to load.
    * `root`: of the file system, for discovery. `export_peak`: bytes of host memory at the most while exporting.
    * `is_tiny`: whether the artifact is that of the tiny model.
    """

    job: Literal["reference", "devices"]
    steps: tuple[str, ...]
    folder: str
    artifact: str = ""
    emulate: bool = False
    root: str = "/"
    export_peak: int = 0
    is_tiny: bool = True

    def to_json(self) -> bytes:
        """As it goes through the child's standard input."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> CheckOrder:
        """What `to_json` gave."""
        return msgspec.json.decode(data, type=cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckEvent:
    """A step has `started`, or has ended with an `outcome`."""

    started: str = ""
    outcome: Outcome | None = None
