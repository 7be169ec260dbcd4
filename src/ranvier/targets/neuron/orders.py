"""Lowering and compiling an artifact's programs, one by one, in a process that does nothing else.

Lowering takes no device. Compiling takes the devices that the environment names and leaves what it compiled in the
caches that the environment names (`JAX_COMPILATION_CACHE_DIR`, `NEURON_COMPILE_CACHE_URL`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from ranvier.core import Limits
from ranvier.models import DecoderSpec
from ranvier.targets.neuron.programs import Program, ProgramSet
from ranvier.targets.neuron.runtime import NeuronOptions, shapes_of
from ranvier.targets.neuron.stored import StoredPrograms, write_program


def lowering(spec: DecoderSpec, limits: Limits, options: NeuronOptions, directory: Path) -> Callable[[str], None]:
    """A function that writes a program, by its name, into the artifact. Raises as `shapes_of` does."""
    programs = ProgramSet(shapes_of(spec, limits, options))
    return lambda name: write_program(programs.named(name), directory)


def compiling(
    spec: DecoderSpec, limits: Limits, options: NeuronOptions, directory: Path, names: tuple[str, ...]
) -> Callable[[str], None]:
    """A function that compiles a stored program of `names` for the devices that are there."""
    devices = jax.devices()
    programs = ProgramSet(shapes_of(spec, limits, options, devices), StoredPrograms(directory, devices[0]).function)
    # Before threads compile: tracing takes little and is not meant for several at a time.
    ready = {name: programs.named(name) for name in names}
    return lambda name: _compile(ready[name])


def _compile(program: Program) -> None:
    program.function.lower(*program.arguments).compile()
