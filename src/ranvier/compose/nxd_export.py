"""A standard checkpoint on target nxd: exported with the values of an entry of the Neuron Model Cache.

The entry settles batch size, sequence length, cores and type; the export then finds its compiled graphs in the cache
and compiles nothing. Without an entry nothing is exported: compiling takes hours, and that is for the user to say.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from ranvier.artifacts import ModelSource, Store, digest, publish
from ranvier.artifacts.optimum import CacheEntry, OptimumConfig, is_optimum_model
from ranvier.artifacts.optimum.config import NEURON_CONFIG_NAME
from ranvier.artifacts.optimum.report import lookup_text
from ranvier.compose.cache_lookup import look_up
from ranvier.compose.nxd import cache_query
from ranvier.config import LauncherConfig
from ranvier.errors import CompileError, ModelError, SetupError
from ranvier.export.exporter import open_checkpoint, write_texts

_log = logging.getLogger(__name__)

COMMAND = "optimum-cli"
Run = Callable[[Sequence[str]], int]


def run_command(arguments: Sequence[str]) -> int:
    """Run a program to its end, with its output on ours; its exit code."""
    try:
        return subprocess.run(arguments, check=False).returncode
    except FileNotFoundError:
        raise SetupError(
            f"target nxd needs `{arguments[0]}` of optimum-neuron 0.4 to export a model; use the container of "
            "docker/Dockerfile.nxd"
        ) from None


def export_from_cache(config: LauncherConfig, source: ModelSource, run: Run = run_command) -> ModelSource:
    """The model, exported into the local store with the values of the best entry, now or earlier.

    Raises `ModelError`, with every entry that was considered, when none satisfies what was asked for.
    """
    model = source.model_id if not source.path.is_dir() else str(source.path)
    lookup = look_up(cache_query(config, model), os.environ)
    entry = lookup.selection.chosen
    if entry is None:
        raise ModelError(
            f"`model_id` {source.model_id}: the Neuron Model Cache has no entry for what was asked for\n"
            f"{lookup_text(lookup)}"
        )
    _log.info("taken from the Neuron Model Cache", extra={"entry": entry.path, "repository": entry.repository})
    store = Store(Path(config.artifact_cache))
    directory = store.directory(f"{Path(source.model_id).name}-nxd", _key(source, entry, config))
    with store.locked():
        if not is_optimum_model(directory):
            store.discard(directory)
            with publish(directory) as building:
                _write(config, source, entry, building, run)
    return ModelSource("optimum", directory, source.model_id)


def _key(source: ModelSource, entry: CacheEntry, config: LauncherConfig) -> dict[str, str]:
    return {
        "source": str(source.path),
        "revision": str(config.revision),
        "entry": digest({"path": entry.path, "repository": entry.repository}),
        "is_emulated": str(config.emulate_neuron),
    }


def _write(config: LauncherConfig, source: ModelSource, entry: CacheEntry, building: Path, run: Run) -> None:
    if config.emulate_neuron:
        # The texts of an export alone: a stand-in has no use for compiled graphs.
        write_texts(source, open_checkpoint(source), building)
        document = config_document(entry.config) | {"checkpoint_id": str(source.path), "checkpoint_revision": None}
        (building / NEURON_CONFIG_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return
    code = run(export_arguments(source, entry.config, building))
    if code != 0:
        raise CompileError(f"`{COMMAND} export neuron` ended with code {code}; its output above says why")
    if not (building / NEURON_CONFIG_NAME).is_file():
        raise CompileError(f"`{COMMAND} export neuron` wrote no {NEURON_CONFIG_NAME}")
    if (building / "tokenizer.json").is_file() or not (source.path / "tokenizer.json").is_file():
        return
    shutil.copyfile(source.path / "tokenizer.json", building / "tokenizer.json")


def export_arguments(source: ModelSource, config: OptimumConfig, directory: Path) -> tuple[str, ...]:
    """The command that exports a model as an entry has it.

    Source: optimum-neuron 0.4.5, `optimum/commands/export/neuronx.py`. Unproven: it needs a Neuron host.
    """
    return (
        *(COMMAND, "export", "neuron", "--model", str(source.path), "--task", "text-generation"),
        *("--batch_size", str(config.batch_size), "--sequence_length", str(config.sequence_length)),
        *("--tensor_parallel_size", str(config.tp_degree), "--torch_dtype", config.dtype),
        str(directory),
    )


def config_document(config: OptimumConfig) -> dict[str, object]:
    """A neuron_config.json that says the same."""
    known = {each.name: getattr(config, each.name) for each in fields(config) if each.name != "unknown"}
    dtype = {"torch_dtype": config.dtype, "_serialized_key": "NxDNeuronConfig"}
    return {**config.unknown, **known, **dtype}
