"""Wiring of the Neuron target: on its devices, or emulated by XLA on this machine's processor."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ranvier.artifacts import Artifact
from ranvier.config import LauncherConfig
from ranvier.core import Limits
from ranvier.errors import OptionError, SetupError
from ranvier.models import read_json, spec_of
from ranvier.neuron_host import discover

if TYPE_CHECKING:
    from ranvier.targets.neuron import NeuronPrograms

_log = logging.getLogger(__name__)


def load_neuron_programs(
    config: LauncherConfig, artifact: Artifact, limits: Limits, root: Path = Path("/")
) -> NeuronPrograms:
    """Programs of an artifact's model, warm. Raises a `SetupError` where they cannot run.

    `root`: where devices are looked for.
    """
    if config.kv_cache_dtype != "auto":
        raise OptionError(
            f"`kv_cache_dtype` {config.kv_cache_dtype} is not served by target neuron, whose cache is held as the "
            "model computes; leave the option out"
        )
    if config.emulate_neuron:
        os.environ["JAX_PLATFORMS"] = "cpu"
        flag = f"--xla_force_host_platform_device_count={config.num_cores or 1}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        _log.warning("the Neuron target is emulated on this machine's processor: for trying it out, not for speed")
    else:
        host = discover(root)
        for line in host.describe():
            _log.info("neuron host: %s", line)
        host.require_cores(config.num_cores or 1)
    return _loaded(config, artifact, limits)


def _loaded(config: LauncherConfig, artifact: Artifact, limits: Limits) -> NeuronPrograms:
    if importlib.util.find_spec("jax") is None:
        raise SetupError("target neuron needs JAX: pip install 'ranvier[neuron]' (Python 3.11 or later)")
    # Imported here: after the environment is settled, and only where this target is wanted.
    from ranvier.targets.neuron import NeuronOptions, load_neuron

    spec = spec_of(read_json(artifact.directory / "config.json"))
    dtype = artifact.manifest.dtype
    options = NeuronOptions(dtype="float32" if dtype == "float32" else "bfloat16", num_cores=config.num_cores or 1)
    programs = load_neuron(spec, artifact.weights_path, limits, options)
    programs.warm_up()
    return programs
