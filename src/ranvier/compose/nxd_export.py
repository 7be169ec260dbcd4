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

from ranvier.artifacts import Artifact, ExportRequest, ModelSource, Store, publish
from ranvier.artifacts.optimum import CacheEntry, OptimumConfig, is_optimum_model
from ranvier.artifacts.optimum.config import NEURON_CONFIG_NAME
from ranvier.artifacts.optimum.report import lookup_text
from ranvier.compose.cache_lookup import look_up
from ranvier.compose.nxd import cache_query, check_precision
from ranvier.compose.nxd_directory import optimum_artifact
from ranvier.config import LauncherConfig
from ranvier.errors import CompileError, ModelError, SetupError
from ranvier.export.exporter import open_checkpoint, write_texts
from ranvier.models import read_json
from ranvier.neuron_host import discover
from ranvier.targets.nxd import check_versions, installed_versions

_log = logging.getLogger(__name__)

COMMAND = "optimum-cli"
_VERSIONS = "import json; from ranvier.targets.nxd import installed_versions; print(json.dumps(installed_versions()))"
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


def check_nxd_host(config: LauncherConfig, root: Path = Path("/")) -> None:
    """Raise a `SetupError` unless this host can export and run models: before anything is compiled.

    `root`: where devices are looked for.
    """
    if not config.emulate_neuron:
        discover(root).require_cores(config.num_cores or 1)
        check_versions(engine_versions(config.engine_python), {})


def engine_versions(python: str | None) -> dict[str, str]:
    """`installed_versions` of the interpreter that runs the engine. Raises `SetupError` where it has no Ranvier."""
    if python is None:
        return installed_versions()
    done = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.splitlines() or ["no reason given"])[-1]
        raise SetupError(f"`engine_python` {python} cannot run the engine: {reason}; install Ranvier there too")
    return dict(json.loads(done.stdout))


def program_of(python: str | None) -> str:
    """The exporting program: beside the engine's interpreter where it has one of its own, else on the path."""
    beside = Path(python).parent / COMMAND if python else None
    return str(beside) if beside is not None and beside.is_file() else COMMAND


def export_from_cache(
    config: LauncherConfig, source: ModelSource, run: Run = run_command, root: Path = Path("/")
) -> Artifact:
    """The model, exported into the local store with the values of the best entry, now or earlier.

    `root`: where devices are looked for. Raises `ModelError`, with every entry that was considered, when none satisfies
    what was asked for, `OptionError` for a precision that exports do not have, and `CompileError`.
    """
    query = cache_query(config, source.model_id)
    lookup = look_up(query, os.environ, root, document=read_json(source.path / "config.json"))
    entry = lookup.selection.chosen
    if entry is None:
        raise ModelError(
            f"`model_id` {source.model_id}: the Neuron Model Cache has no entry for what was asked for\n"
            f"{lookup_text(lookup)}"
        )
    # An export takes long: what is refused after it is refused before.
    check_precision(config, entry.config)
    _log.info("taken from the Neuron Model Cache", extra=_told(entry))
    store = Store(Path(config.artifact_cache))
    key = _key(source, entry, config)
    directory = store.directory(f"{Path(source.model_id).name}-nxd", key)
    with store.locked():
        if not is_optimum_model(directory):
            store.discard(directory)
            with publish(directory) as building:
                _write(config, source, entry, building, run)
    return optimum_artifact(ModelSource("optimum", directory, source.model_id), config.revision, key)


def _told(entry: CacheEntry) -> dict[str, object]:
    names = ("world_size", "batch_size", "sequence_length", "auto_cast_type")
    return {"entry": entry.path, "repository": entry.repository} | {name: getattr(entry.config, name) for name in names}


def _key(source: ModelSource, entry: CacheEntry, config: LauncherConfig) -> dict[str, str]:
    """What the export depends on; the files of a revision on the hub are in a folder of its own."""
    request = ExportRequest(
        source=source,
        revision=config.revision,
        target="nxd",
        batch_size=entry.config.batch_size,
        sequence_length=entry.config.sequence_length,
        quantize="none",
        dtype=entry.config.dtype,
        kv_cache_dtype="auto",
    )
    return request.key() | {"entry": entry.path, "is_emulated": str(config.emulate_neuron)}


def _write(config: LauncherConfig, source: ModelSource, entry: CacheEntry, building: Path, run: Run) -> None:
    if config.emulate_neuron:
        # The texts of an export alone: a stand-in has no use for compiled graphs.
        write_texts(source, open_checkpoint(source), building)
        document = config_document(entry.config) | {"checkpoint_id": str(source.path), "checkpoint_revision": None}
        (building / NEURON_CONFIG_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return
    code = run((program_of(config.engine_python), *export_arguments(source, entry.config, building)))
    if code != 0:
        raise CompileError(f"`{COMMAND} export neuron` ended with code {code}; its output above says why")
    if not (building / NEURON_CONFIG_NAME).is_file():
        raise CompileError(f"`{COMMAND} export neuron` wrote no {NEURON_CONFIG_NAME}")
    if (building / "tokenizer.json").is_file() or not (source.path / "tokenizer.json").is_file():
        return
    shutil.copyfile(source.path / "tokenizer.json", building / "tokenizer.json")


def export_arguments(source: ModelSource, config: OptimumConfig, directory: Path) -> tuple[str, ...]:
    """What `optimum-cli` is asked, to export a model as an entry has it.

    Source: optimum-neuron 0.4.5, `optimum/commands/export/neuronx.py`. Unproven: it needs a Neuron host.
    """
    return (
        *("export", "neuron", "--model", str(source.path), "--task", "text-generation"),
        *("--batch_size", str(config.batch_size), "--sequence_length", str(config.sequence_length)),
        *("--tensor_parallel_size", str(config.tp_degree), "--torch_dtype", config.dtype),
        str(directory),
    )


def config_document(config: OptimumConfig) -> dict[str, object]:
    """A neuron_config.json that says the same."""
    known = {each.name: getattr(config, each.name) for each in fields(config) if each.name != "unknown"}
    dtype = {"torch_dtype": config.dtype, "_serialized_key": "NxDNeuronConfig"}
    return {**config.unknown, **known, **dtype}
