"""Looking at what a loaded model holds on its devices, for checks. Nothing that serves imports this."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ranvier.targets.neuron.runtime import NeuronPrograms


def kv_rows(programs: NeuronPrograms) -> list[npt.NDArray[Any]]:
    """Copies of every layer's keys and values `[S, K, C, E]`, on the host."""
    return [np.array(leaf) for leaf in kv_leaves(programs)]


def kv_leaves(programs: NeuronPrograms) -> list[jax.Array]:
    """The arrays themselves: the next program takes them away."""
    leaves: list[jax.Array] = jax.tree.leaves(programs._held["caches"])
    return leaves


def addresses(leaves: list[jax.Array]) -> tuple[int, ...] | None:
    """Where each part of these arrays lies in its device's memory; None where the platform does not tell."""
    try:
        return tuple(part.data.unsafe_buffer_pointer() for leaf in leaves for part in leaf.addressable_shards)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError):
        return None


def count_devices() -> int:
    """Devices of JAX's default platform, which are taken by asking."""
    return len(jax.devices())


def claim_devices() -> tuple[str, int]:
    """Take the devices and compute something on each: their platform and number. Raises what the runtime raises."""
    devices = jax.devices()
    for device in devices:
        jax.device_put(jnp.ones(8), device).block_until_ready()
    return devices[0].platform, len(devices)
