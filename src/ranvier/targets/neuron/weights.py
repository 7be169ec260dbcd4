"""From an artifact's packed weights to arrays on the device.

Dense matrices are rounded to the compute type. Integer codes are turned back into values first: the programs multiply
dense matrices only, so int8 and int4 files save no device memory here.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    return {name: _placed(values, held[name]) for name, values in _host_weights(shapes, packed, held)}


def _placed(values: Array, held: Abstract) -> jax.Array:
    fitted = values.astype(held.dtype, copy=False)
    placed: jax.Array = jax.device_put(fitted, held.sharding)
    return placed


def _host_weights(shapes: Shapes, packed: PackedWeights, held: dict[str, Abstract]) -> Iterator[tuple[str, Array]]:
    for rope, name in rotary_names(shapes.spec).items():
        yield from zip((f"{name}.cos", f"{name}.sin"), _rotary_tables(rope, shapes), strict=True)
    for name, abstract in held.items():
        if not name.startswith("rotary."):
            yield name, _fitted(_values(packed.read(name)), name, abstract.shape, shapes)


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
