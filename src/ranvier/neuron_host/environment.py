"""The variables with which a process uses Neuron devices, or emulates them, and finds what was compiled before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ranvier.neuron_host.cores import NUM_CORES, VISIBLE_CORES, format_cores
from ranvier.neuron_host.host import NeuronHost

COMPILE_CACHE = "NEURON_COMPILE_CACHE_URL"


def jax_environment(
    environ: Mapping[str, str], *, emulated_cores: int | None, cache: Path | None = None
) -> dict[str, str]:
    """What to add to `environ` before JAX is imported.

    `emulated_cores`: cores that this machine's processor stands for; None uses the devices. `cache`: a directory for
    what is compiled; a compile cache that the environment names already stays.

    `JAX_PLATFORMS` and the `JAX_*CACHE*` variables are those of JAX's configuration ("Persistent compilation cache");
    `NEURON_COMPILE_CACHE_URL` is that of the Neuron compiler.
    """
    added: dict[str, str] = {}
    if emulated_cores is not None:
        flag = f"--xla_force_host_platform_device_count={emulated_cores}"
        added |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{environ.get('XLA_FLAGS', '')} {flag}".strip()}
    if cache is not None:
        added |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            # Of GPUs, but their path would be part of every key: nothing would be found once the artifact is moved.
            "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        }
        if emulated_cores is None:
            added[COMPILE_CACHE] = environ.get(COMPILE_CACHE) or str(cache / "neuronx-cc")
    return added


def core_environment(host: NeuronHost, num_cores: int) -> dict[str, str]:
    """What to set so that this process takes `num_cores` cores and leaves the others to other engines.

    Without it the runtime gives a process every core that it may have. Cores that the environment names stay the ones
    that are taken, from the first on.
    """
    if host.choice.ids is None:
        return {NUM_CORES: str(num_cores)}
    # The runtime takes these two together only where they agree.
    return {VISIBLE_CORES: format_cores(host.choice.ids[:num_cores]), NUM_CORES: str(num_cores)}
