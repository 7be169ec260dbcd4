"""Programs on disk: portable StableHLO, lowered for the platform `neuron` on any host, run as it is stored.

A file is what `jax.export` serializes: StableHLO in its versioned, portable form with the calling convention around it
(https://docs.jax.dev/en/latest/export/export.html). What is stored is compiled on the device and, emulated, on this
machine's processor: the check of the platform is left out, since no operation in it belongs to one.

Behind that, where its readers do not look, are 32 bytes: the SHA-256 of the program's name and of all before. The
library reads many damaged files as other programs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import SingleDeviceSharding

from ranvier.errors import ArtifactError
from ranvier.targets.neuron.programs import Program
from ranvier.targets.neuron.sampling import Choices

FOLDER = "programs"
PLATFORM = "neuron"

_DIGEST_BYTES = 32

export.register_namedtuple_serialization(Choices, serialized_name="ranvier.Choices")


def program_file(name: str) -> str:
    """Where a program is, relative to its artifact."""
    return f"{FOLDER}/{name}.stablehlo"


def write_program(program: Program, directory: Path) -> None:
    """Lower a program for Neuron devices and write it."""
    exported = export.export(
        program.function, platforms=[PLATFORM], disabled_checks=[export.DisabledSafetyCheck.platform()]
    )(*program.arguments)
    path = directory / program_file(program.name)
    path.parent.mkdir(exist_ok=True)
    data = bytes(exported.serialize())
    path.write_bytes(data + _digest(program.name, data))


class StoredPrograms:
    """The programs of an artifact, read when they are asked for. `device` is where those for a single core run."""

    def __init__(self, directory: Path, device: jax.Device) -> None:
        self._directory = directory
        self._alone = SingleDeviceSharding(device)

    def function(self, program: Program) -> Callable[..., Any]:
        """The stored program, jitted, in place of the one it was lowered from; state is donated as there.

        Raises `ArtifactError` when it is missing, damaged, or made for other shapes.
        """
        path = self._directory / program_file(program.name)
        exported = _read(path, program.name)
        leaves = jax.tree.leaves(program.arguments)
        wanted, found = [_words(each) for each in leaves], [_words(each) for each in exported.in_avals]
        if found != wanted:
            differing = next(
                (f"{a} and not {b}" for a, b in zip(found, wanted, strict=False) if a != b), "fewer or more"
            )
            raise ArtifactError(f"{path}: takes other arrays than this version gives ({differing}); export it again")
        donated = len(program.held) - 1 if program.has_state else ()
        # Said here, and not left to the arrays that come: what is compiled ahead must be found again by its key.
        placements = jax.tree.map(lambda each: each.sharding or self._alone, program.arguments)
        jitted: Callable[..., Any] = jax.jit(exported.call, in_shardings=placements, donate_argnums=donated)
        return jitted


def _words(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _digest(name: str, data: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + data).digest()


def _read(path: Path, name: str) -> export.Exported:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}; export the model again") from None
    data = content[:-_DIGEST_BYTES]
    if content[-_DIGEST_BYTES:] != _digest(name, data):
        raise ArtifactError(f"{path}: damaged, or not the program `{name}` of an artifact; export the model again")
    try:
        return export.deserialize(bytearray(data))
    except Exception as error:
        # The library has no class for this; whole files of versions that it no longer reads end in errors of its own.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"{path}: not a program that JAX {jax.__version__} reads ({reason}); export it again"
        ) from None
