"""The config of `ranvier export`: options shared with the launcher, two of its own, and a directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ranvier.config.command import read_command, values_by_field
from ranvier.config.options import EXPORT_OPTIONS
from ranvier.errors import OptionError

_SUMMARY = "Export a model into an artifact: a directory that the launcher can serve."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What `ranvier export` was told. None means: not told, the exporter decides.

    * `output`: the directory as written on the command line.
    * `num_cores`, `auto_cast_type`, `emulate_neuron`, `instance`, `lnc` and buckets are for target neuron.
    * `batch_size`: slots, 1 or more. `sequence_length`: tokens of a slot, 2 or more.
    * `sources` and `warnings` as in `LauncherConfig`.
    """

    model_id: str
    output: str
    revision: str | None
    batch_size: int | None
    sequence_length: int | None
    quantize: str
    dtype: str
    kv_cache_dtype: str
    target: str
    num_cores: int | None
    auto_cast_type: str | None
    emulate_neuron: bool
    instance: str | None
    lnc: int | None
    prefill_buckets: tuple[str, ...]
    chunk_buckets: tuple[str, ...]
    decode_buckets: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_export_config(argv: Sequence[str], environ: Mapping[str, str], prog: str) -> ExportConfig:
    """Read the arguments behind `export` and the environment.

    Leaves and raises as `load_config` does; an `OptionError` also when no model is given.
    """
    command = read_command(argv, environ, options=EXPORT_OPTIONS, prog=prog, summary=_SUMMARY, positionals=("OUTPUT",))
    values, sources = values_by_field(command.settings, environ)
    if values["model_id"] is None:
        raise OptionError("`model_id` is missing; give `--model-id` or set `MODEL_ID`")
    return ExportConfig(**values, output=command.positionals[0], sources=sources, warnings=command.warnings)
