"""From an artifact's packed weights to arrays on the device.

Dense matrices are rounded to the compute type. Integer codes are turned back into values first: the programs multiply
dense matrices only, so int8 and int4 files save no device memory here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ranvier.models import PackedWeights
from ranvier.models.rope import RopeSpec
from ranvier.models.weights import Array, Dense, FloatArray, Weight, dequantize
from ranvier.targets.neuron.decoder import rotary_names
from ranvier.targets.neuron.shapes import Abstract, Shapes, is_kv_weight

_BFLOAT16 = np.dtype(jnp.bfloat16)


def load_weights(shapes: Shapes, packed: PackedWeights) -> dict[str, jax.Array]:
    """Every weight of `shapes.weights()`, placed. Raises `ModelError` when the file is damaged or lacks one."""
    held = shapes.weights()
    names = [name for name in held if not is_table(name)]
    return rotary_tables(shapes) | {
        name: placed(fitted(packed.read(name), name, held[name], shapes), held[name]) for name in names
    }


def placed(values: Array, held: Abstract) -> jax.Array:
    """An array on its device or devices, in the type that it is held in."""
    on_device: jax.Array = jax.device_put(values.astype(held.dtype, copy=False), held.sharding)
    return on_device


def is_table(name: str) -> bool:
    """Whether it is one of `rotary_tables`, which no file holds: they follow from the spec and the cache's length."""
    return name.startswith("rotary.")


def rotary_tables(shapes: Shapes) -> dict[str, jax.Array]:
    """Cosines and sines of every rotary embedding, placed."""
    held, tables = shapes.weights(), {}
    for rope, name in rotary_names(shapes.spec).items():
        for part, values in zip(("cos", "sin"), _rotary_tables(rope, shapes), strict=True):
            tables[f"{name}.{part}"] = placed(values, held[f"{name}.{part}"])
    return tables


def fitted(weight: Weight, name: str, held: Abstract, shapes: Shapes) -> Array:
    """A weight of the checkpoint as `shapes` hold it, on the host, not rounded yet."""
    return _fitted(_values(weight), name, held.shape, shapes)


def _rotary_tables(rope: RopeSpec, shapes: Shapes) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines `[C, rotary_dim]`, both halves of the dimensions alike."""
    frequencies = rope.inverse_frequencies(shapes.limits.sequence_length)
    angles = np.outer(np.arange(shapes.cache_length), frequencies)
    angles = np.concatenate([angles, angles], axis=-1)
    return (
        (np.cos(angles) * rope.magnitude).astype(np.float32),
        (np.sin(angles) * rope.magnitude).astype(np.float32),
    )


def _values(weight: Weight) -> Array:
    if isinstance(weight, Dense) and weight.values.dtype == np.uint16:
        return weight.values.view(_BFLOAT16)
    return dequantize(weight)


def _fitted(values: Array, name: str, shape: tuple[int, ...], shapes: Shapes) -> Array:
    """The values with norm offsets added, KV heads repeated, tables cut or filled up with zeros."""
    if name.endswith("norm"):
        values = values + np.float32(shapes.spec.norm.offset)
    if is_kv_weight(name, shapes.spec):
        heads = values.reshape(shapes.spec.num_kv_heads, shapes.spec.head_dim, *values.shape[1:])
        return np.repeat(heads, shapes.parallel.kv_copies(shapes.spec), axis=0).reshape(shape)
    if values.shape[0] < shape[0]:
        return np.concatenate([values, np.zeros((shape[0] - values.shape[0], *shape[1:]), values.dtype)])
    return values[: shape[0]]
