"""Lowering and compiling an artifact's programs, one by one, in a process that does nothing else.

Lowering takes no device. Compiling takes the devices that the environment names and leaves what it compiled in the
caches that the environment names (`JAX_COMPILATION_CACHE_DIR`, `NEURON_COMPILE_CACHE_URL`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import jax

from ranvier.core import Limits
from ranvier.models import DecoderSpec
from ranvier.targets.neuron.programs import ProgramSet
from ranvier.targets.neuron.runtime import NeuronOptions, shapes_of
from ranvier.targets.neuron.stored import StoredPrograms, write_program


def lowering(spec: DecoderSpec, limits: Limits, options: NeuronOptions, directory: Path) -> Callable[[str], None]:
    """A function that writes a program, by its name, into the artifact. Raises as `shapes_of` does."""
    programs = ProgramSet(shapes_of(spec, limits, options))
    return lambda name: write_program(programs.named(name), directory)


def compiling(spec: DecoderSpec, limits: Limits, options: NeuronOptions, directory: Path) -> Callable[[str], None]:
    """A function that compiles a stored program, by its name, for the devices that are there; threads may share it."""
    devices = jax.devices()
    programs = ProgramSet(shapes_of(spec, limits, options, devices), StoredPrograms(directory, devices[0]).function)
    # Threads compile side by side; tracing takes little and is not meant for several at a time.
    tracing = threading.Lock()

    def compile_one(name: str) -> None:
        with tracing:
            program = programs.named(name)
            lowered = program.function.lower(*program.arguments)
        lowered.compile()

    return compile_one
