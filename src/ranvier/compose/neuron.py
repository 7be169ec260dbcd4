"""Wiring of the Neuron target: on its devices, or emulated by XLA on this machine's processor."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from ranvier.artifacts import COMPILED, Artifact, Compiled, NeuronManifest
from ranvier.config import LauncherConfig
from ranvier.core import Limits
from ranvier.errors import ArtifactError, SetupError
from ranvier.models import read_json, spec_of
from ranvier.neuron_host import (
    NeuronHost,
    acquire,
    compile_target,
    core_environment,
    discover,
    format_cores,
    jax_environment,
    neuron_compiler_version,
    xla_version,
)

if TYPE_CHECKING:
    from ranvier.targets.neuron import NeuronPrograms

_log = logging.getLogger(__name__)


def load_neuron_programs(
    config: LauncherConfig, artifact: Artifact, limits: Limits, root: Path = Path("/")
) -> NeuronPrograms:
    """Programs of an artifact, warm. Raises a `SetupError` where they cannot run.

    `root`: where devices are looked for.
    """
    manifest = artifact.manifest.neuron
    if manifest is None:
        raise ArtifactError(f"{artifact.directory}: was not exported for target neuron; export the model again")
    host = None if config.emulate_neuron else _host(manifest, root)
    check_compiled(manifest.compiled, host)
    emulated = manifest.num_cores if host is None else None
    os.environ |= jax_environment(os.environ, emulated_cores=emulated, cache=cache_of(config, artifact))
    if host is None:
        _log.warning("the Neuron target is emulated on this machine's processor: for trying it out, not for speed")
        return _load(artifact, manifest, limits)
    os.environ |= core_environment(host, manifest.num_cores)
    # The runtime takes cores with the first use of the devices, and may find them not released yet.
    cores = format_cores((host.choice.ids or range(host.num_cores))[: manifest.num_cores])
    return acquire(lambda: _load(artifact, manifest, limits), cores, report=_log.warning)


def _host(manifest: NeuronManifest, root: Path) -> NeuronHost:
    host = discover(root)
    for line in host.describe():
        _log.info("neuron host: %s", line)
    host.require_cores(manifest.num_cores)
    if neuron_compiler_version() is None:
        raise SetupError(
            "target neuron needs the Neuron plug-in for JAX: pip install jax-neuronx[stable] with AWS's index, or use "
            "the image of docker/Dockerfile.neuron"
        )
    return host


def cache_of(config: LauncherConfig, artifact: Artifact) -> Path:
    """Where compiled programs are looked for and left: the artifact, or the local store beside a read-only one."""
    inside = artifact.directory / COMPILED
    if inside.is_dir() or os.access(artifact.directory, os.W_OK):
        return inside
    return Path(config.artifact_cache) / COMPILED / artifact.directory.name


def check_compiled(compiled: Compiled | None, host: NeuronHost | None) -> None:
    """Raise `ArtifactError`, with the field that differs, when programs were compiled for something else.

    What was compiled for nothing is compiled now; so is, on the processor, what was compiled for devices.
    """
    if compiled is None:
        _log.warning("the artifact's programs were not compiled when it was exported: that is done now, once")
        return
    if host is None:
        here = {"platform": "cpu", "compiler": xla_version(), "target": platform.machine(), "lnc": 1}
        if compiled.platform != "cpu":
            return
    else:
        target = compile_target(host.chip.target if host.chip else None)
        version = neuron_compiler_version() or "not installed"
        here = {"platform": "neuron", "compiler": version, "target": target, "lnc": host.lnc}
    for field, found in here.items():
        made_for = getattr(compiled, field)
        if made_for != found:
            raise ArtifactError(
                f"`{field}` is {found} here, but the artifact's programs were compiled for {made_for}; "
                "export the model again on such a host, or serve it where that fits"
            )


def _load(artifact: Artifact, manifest: NeuronManifest, limits: Limits) -> NeuronPrograms:
    if importlib.util.find_spec("jax") is None:
        raise SetupError("target neuron needs JAX: pip install 'ranvier[neuron]' (Python 3.11 or later)")
    # Imported here: after the environment is settled, and only where this target is wanted.
    from ranvier.targets.neuron import load_artifact
    from ranvier.targets.neuron.artifact import options_of

    spec = spec_of(read_json(artifact.directory / "config.json"))
    programs = load_artifact(spec, artifact.directory, limits, options_of(manifest))
    programs.warm_up()
    return programs
