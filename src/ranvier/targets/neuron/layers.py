"""Products, norms, activations and rotations in JAX, on arrays whose last axis is a model or head width.

Products are summed up in float32 and rounded to the type of their input; norms and rotations are float32 inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array, lax

from ranvier.models.spec import Activation, NormSpec

Weights = Mapping[str, Array]

_SQRT_HALF = math.sqrt(0.5)


def product(x: Array, weights: Weights, name: str) -> Array:
    """`x [T, in]` times the matrix `[out, in]` of that name, plus its bias if it has one: `[T, out]`."""
    out = lax.dot_general(x, weights[name], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    bias = weights.get(f"{name}.bias")
    return (out if bias is None else out + bias).astype(x.dtype)


def norm(x: Array, weights: Weights, name: str, spec: NormSpec) -> Array:
    """`x` normalized over its last axis. Offsets are in the weights already."""
    wide = x.astype(jnp.float32)
    if spec.kind == "layer":
        wide = wide - wide.mean(axis=-1, keepdims=True)
    wide = wide * lax.rsqrt((wide * wide).mean(axis=-1, keepdims=True) + spec.eps) * weights[name]
    if spec.kind == "layer":
        wide = wide + weights[f"{name}.bias"]
    return wide.astype(x.dtype)


def activation(x: Array, kind: Activation) -> Array:
    """One of the four."""
    if kind == "silu":
        return jax.nn.silu(x)
    if kind == "relu":
        return jax.nn.relu(x)
    if kind == "gelu_tanh":
        return jax.nn.gelu(x, approximate=True)
    # JAX's own takes the complementary error function, a longer formula.
    return x * 0.5 * (1.0 + lax.erf(x * _SQRT_HALF))


def rotated(x: Array, cos_TE: Array, sin_TE: Array) -> Array:
    """Halves of the first dimensions of `x [T, heads, E]` rotated; the tables `[T, rotary_dim]` say how many."""
    width = cos_TE.shape[-1]
    part = x[..., :width].astype(jnp.float32)
    first, second = part[..., : width // 2], part[..., width // 2 :]
    turned = part * cos_TE[:, None] + jnp.concatenate([-second, first], axis=-1) * sin_TE[:, None]
    turned = turned.astype(x.dtype)
    return turned if width == x.shape[-1] else jnp.concatenate([turned, x[..., width:]], axis=-1)


def rows_of(table: Array, indices: Array) -> Array:
    """Rows of a table `[rows, width]`. Indices are int32 and within it: what lies outside is undefined on a core."""
    return table.at[indices].get(mode="promise_in_bounds")
