"""Wiring of the tensor half."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ranvier.artifacts import AdapterSource, Artifact
from ranvier.compose.plan import ServePlan, open_any
from ranvier.config import LauncherConfig
from ranvier.config.neuron import NEURON_TARGETS
from ranvier.core import Chunk, EngineInfo, Limits, SamplingParams, SamplingRow, StepPlan
from ranvier.engine import Engine
from ranvier.models import load_adapter, read_json, spec_of
from ranvier.targets import Programs


def load_engine(
    config: LauncherConfig, directory: Path, limits: Limits, adapters: Sequence[AdapterSource] = ()
) -> tuple[Engine, EngineInfo, Programs]:
    """A warm engine for an artifact, with adapters. Raises a `SetupError` when one of them cannot be loaded."""
    began = time.monotonic()
    programs = _load_programs(config, open_any(directory, config), limits, adapters)
    engine = Engine(programs, limits)
    if config.target not in NEURON_TARGETS:
        # Those have run each of their programs.
        _warm_up(programs, limits)
    details = {**programs.details, "load_s": f"{time.monotonic() - began:.2f}"}
    info = EngineInfo(
        target=config.target,
        limits=limits,
        capabilities=programs.capabilities,
        details=details,
        is_emulated=config.emulate_neuron and config.target in NEURON_TARGETS,
    )
    return engine, info, programs


def load_planned(plan: ServePlan) -> tuple[Engine, EngineInfo, Programs]:
    """The engine of a plan. Raises a `SetupError`."""
    return load_engine(plan.launcher_config(), Path(plan.artifact_directory), plan.limits, plan.adapters)


def _load_programs(
    config: LauncherConfig, artifact: Artifact, limits: Limits, sources: Sequence[AdapterSource]
) -> Programs:
    if config.target == "nxd":
        # First of all: it runs models that no decoder of ours describes.
        from ranvier.compose.nxd import load_nxd_programs

        return load_nxd_programs(config, artifact)
    model_config = read_json(artifact.directory / "config.json")
    spec = spec_of(model_config)
    adapters = [load_adapter(source.name, Path(source.directory), model_config) for source in sources]
    if config.target == "scripted":
        from ranvier.targets.scripted import ScriptedPrograms

        return ScriptedPrograms(
            num_slots=limits.batch_size,
            sequence_length=limits.sequence_length,
            vocab_size=spec.vocab_size,
            adapters=tuple(adapter.name for adapter in adapters),
        )
    # Imported here: one target's library must not be needed for another.
    if config.target == "neuron":
        from ranvier.compose.neuron import load_neuron_programs

        return load_neuron_programs(config, artifact, limits)
    from ranvier.targets.cpu import CpuOptions, load_cpu

    manifest = artifact.manifest
    options = CpuOptions(
        dtype=manifest.dtype, kv_cache_dtype=manifest.kv_cache_dtype, num_threads=config.num_threads or 0
    )
    return load_cpu(spec, artifact.weights_path, limits, options, adapters)


def _warm_up(programs: Programs, limits: Limits) -> None:
    """Run a prompt and a decode once, so that the first request does not pay for lazy set-up."""
    ids = [0] * min(32, limits.sequence_length - 1)
    row = SamplingRow(SamplingParams(), 0, ids)
    programs.run(StepPlan((Chunk(0, ids, 0, wants_logits=True),), (), (row,)))
    programs.run(StepPlan((Chunk(0, [0], len(ids), wants_logits=True),), (), (row,)))
