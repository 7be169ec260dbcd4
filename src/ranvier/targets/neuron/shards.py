"""Weights of an artifact as its cores hold them: rounded, filled up, repeated and cut, ready to be copied to a device.

weights/all_cores.safetensors             what every core has a copy of, and everything where there is one core
weights/core_00000_of_00002.safetensors   a core's part of each weight that is spread (see `sharding`)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ranvier.errors import ModelError
from ranvier.models.tensor_file import TensorFile, TensorWriter, aligned
from ranvier.models.weights import Array, Weight
from ranvier.targets.neuron.shapes import Abstract, Shapes
from ranvier.targets.neuron.weights import fitted, is_table, placed, rotary_tables

FOLDER = "weights"

_BFLOAT16 = np.dtype(jnp.bfloat16)


def shard_names(num_cores: int) -> tuple[str, ...]:
    """Files of an artifact for so many cores, relative to it."""
    spread = [f"core_{core:05}_of_{num_cores:05}" for core in range(num_cores)] if num_cores > 1 else []
    return tuple(f"{FOLDER}/{name}.safetensors" for name in ("all_cores", *spread))


def write_shards(shapes: Shapes, weights: Iterable[tuple[str, Weight]], directory: Path) -> None:
    """Write the files, a weight at a time. Raises `ModelError` for a weight beyond the range of its type."""
    held = shapes.weights()
    (directory / FOLDER).mkdir()
    with contextlib.ExitStack() as stack:
        paths = [directory / name for name in shard_names(shapes.parallel.num_cores)]
        whole, *parts = [stack.enter_context(TensorWriter(path, len(held))) for path in paths]
        for name, weight in weights:
            values = _rounded(fitted(weight, name, held[name], shapes), name, held[name])
            axis = _spread_axis(shapes, name, held[name])
            if axis is None:
                whole.add(name, values)
                continue
            for part, piece in zip(parts, np.split(values, len(parts), axis), strict=True):
                part.add(name, piece)


def _rounded(values: Array, name: str, held: Abstract) -> Array:
    # Beyond the largest float16 is infinity: said below, with the name, and not by NumPy.
    with np.errstate(over="ignore"):
        rounded = values.astype(held.dtype, copy=False)
    if held.dtype == np.float16 and not np.isfinite(rounded).all():
        raise ModelError(
            f"tensor `{name}` has values beyond the range of float16 (65504), or not finite; export with "
            "`--auto-cast-type` bf16"
        )
    bits: Array = rounded.view(np.uint16) if held.dtype == _BFLOAT16 else rounded
    return bits


def _spread_axis(shapes: Shapes, name: str, held: Abstract) -> int | None:
    axis = shapes.parallel.spread_axis(name) if shapes.parallel.num_cores > 1 else None
    return axis if axis is not None and axis < len(held.shape) else None


def load_shards(shapes: Shapes, directory: Path) -> dict[str, jax.Array]:
    """Every weight of `shapes.weights()`, placed; no core's part is put together with another's on the host.

    Raises `ModelError` when a file is damaged or lacks a weight.
    """
    files = [TensorFile(directory / name) for name in shard_names(shapes.parallel.num_cores)]
    held = {name: each for name, each in shapes.weights().items() if not is_table(name)}
    return rotary_tables(shapes) | {name: _loaded(files, shapes, name, each) for name, each in held.items()}


def _loaded(files: list[TensorFile], shapes: Shapes, name: str, held: Abstract) -> jax.Array:
    axis = _spread_axis(shapes, name, held)
    if axis is None:
        return placed(_read(files[0], name, held.shape, held), held)
    shape = tuple(size // len(files[1:]) if index == axis else size for index, size in enumerate(held.shape))
    devices = held.sharding.mesh.devices.flat
    parts: list[Any] = [
        jax.device_put(_read(file, name, shape, held), device) for file, device in zip(files[1:], devices, strict=True)
    ]
    return jax.make_array_from_single_device_arrays(held.shape, held.sharding, parts)


def _read(file: TensorFile, name: str, shape: tuple[int, ...], held: Abstract) -> Array:
    if name not in file.names:
        raise ModelError(f"{file.path}: tensor `{name}` is missing; export the model again")
    values = aligned(file.read(name))
    if held.dtype == _BFLOAT16 and values.dtype == np.uint16:
        values = values.view(_BFLOAT16)
    if values.shape != shape or values.dtype != held.dtype:
        raise ModelError(
            f"{file.path}: tensor `{name}` is {values.dtype}{list(values.shape)} and the programs take "
            f"{held.dtype}{list(shape)}; export the model again"
        )
    return values
