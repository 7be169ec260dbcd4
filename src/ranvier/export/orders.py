"""An order to the process that lowers or compiles programs (`python -m ranvier.export.program_child`), as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from ranvier.artifacts import NeuronManifest
from ranvier.core import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramEvent:
    """What became of one program: `started`, `finished` after `seconds`, or `failed` with a `reason`."""

    state: Literal["started", "finished", "failed"]
    name: str
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOrder:
    """Lower programs into `directory`, which has its config.json, or compile those that are there.

    `neuron` says with which options; its `files` and `compiled` mean nothing yet. `jobs`: programs at a time.
    """

    job: Literal["lower", "compile"]
    directory: str
    limits: Limits
    neuron: NeuronManifest
    names: tuple[str, ...]
    jobs: int

    def to_json(self) -> bytes:
        """As it goes through the child's standard input."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> ProgramOrder:
        """What `to_json` gave."""
        return msgspec.json.decode(data, type=cls)
