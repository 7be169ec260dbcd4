"""The config of `ranvier plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ranvier.config.command import read_command, values_by_field
from ranvier.config.neuron import AUTO_CAST_TYPE, INSTANCE, LNC, NUM_CORES, in_group
from ranvier.config.option import Option
from ranvier.config.options import EXPORT_OPTIONS, select
from ranvier.errors import OptionError

_SUMMARY = (
    "Say what a model takes and gives on an Inferentia or Trainium instance, before anything is compiled. Works on any "
    "machine; only the model's config.json is read."
)
_GROUP = "Plan"

_OWN_OPTIONS: tuple[Option, ...] = (
    *in_group(
        _GROUP, INSTANCE, NUM_CORES, replace(AUTO_CAST_TYPE, default="bf16", help="Type of weights and KV cache."), LNC
    ),
    Option(
        flags=("--json",),
        env=(),
        help="Print JSON: bytes, seconds, tokens per second.",
        group=_GROUP,
        kind="switch",
        default=False,
        field="as_json",
    ),
)


def _limits() -> tuple[Option, ...]:
    """Batch and sequence are options that export has too."""
    return tuple(option for option in EXPORT_OPTIONS if option.name in ("batch_size", "sequence_length"))


PLAN_OPTIONS: tuple[Option, ...] = (*select("model_id"), *_OWN_OPTIONS, *_limits(), *select("help", "version"))
"""The options of `ranvier plan`, in the order of help and docs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """What `ranvier plan` was told. None means: not told, the planner decides.

    Counts are 1 or more, `sequence_length` 2 or more, `lnc` 1 or 2. `sources` and `warnings` as in `LauncherConfig`.
    """

    model_id: str
    instance: str | None
    num_cores: int | None
    auto_cast_type: str
    lnc: int | None
    as_json: bool
    batch_size: int | None
    sequence_length: int | None
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_plan_config(argv: Sequence[str], environ: Mapping[str, str], prog: str) -> PlanConfig:
    """Read the arguments behind `plan` and the environment.

    Leaves and raises as `load_config` does; an `OptionError` also when no model is given.
    """
    command = read_command(argv, environ, options=PLAN_OPTIONS, prog=prog, summary=_SUMMARY)
    values, sources = values_by_field(command.settings, environ)
    if values["model_id"] is None:
        raise OptionError("`model_id` is missing; give `--model-id` or set `MODEL_ID`")
    return PlanConfig(**values, sources=sources, warnings=command.warnings)
