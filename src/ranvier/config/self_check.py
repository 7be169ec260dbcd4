"""The config of `ranvier self-check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ranvier.config.command import read_command, values_by_field
from ranvier.config.neuron import AUTO_CAST_TYPE, EMULATE_NEURON, NUM_CORES, in_group
from ranvier.config.option import Option
from ranvier.config.options import select

_SUMMARY = (
    "Check the Neuron devices of this host with a tiny model, against this machine's processor and against the "
    "planner's bounds, and write a report to paste into an issue. Takes a few minutes, most of them in the compiler."
)
_GROUP = "Self-check"

_OWN_OPTIONS: tuple[Option, ...] = (
    *in_group(
        _GROUP,
        replace(NUM_CORES, default_text="2 where there are as many, else 1"),
        # Without variables: a container's choice for serving must not weaken the comparison.
        replace(
            AUTO_CAST_TYPE, env=(), default="fp32", help="Type of weights, activations and KV cache.", default_text=""
        ),
        EMULATE_NEURON,
        replace(
            select("model_id")[0],
            env=(),
            help="Model to take times of instead of the tiny one, which is bound by launches: what `ranvier export` "
            "takes, or an artifact.",
            default_text="the tiny model",
        ),
    ),
    Option(
        flags=("--output",),
        env=(),
        help="File for the report, which else goes to standard output.",
        group=_GROUP,
        kind="path",
        metavar="FILE",
        default_text="standard output",
    ),
)

SELF_CHECK_OPTIONS: tuple[Option, ...] = (*_OWN_OPTIONS, *select("help", "version"))
"""The options of `ranvier self-check`, in the order of help and docs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheckConfig:
    """What `ranvier self-check` was told. `num_cores`, 1 or more, is None where the host decides.

    `model_id` None takes times of the tiny model. `sources` and `warnings` as in `LauncherConfig`.
    """

    num_cores: int | None = None
    auto_cast_type: str = "fp32"
    emulate_neuron: bool = False
    model_id: str | None = None
    output: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_self_check_config(argv: Sequence[str], environ: Mapping[str, str], prog: str) -> SelfCheckConfig:
    """Read the arguments behind `self-check` and the environment. Leaves and raises as `load_config` does."""
    command = read_command(argv, environ, options=SELF_CHECK_OPTIONS, prog=prog, summary=_SUMMARY)
    values, sources = values_by_field(command.settings, environ)
    return SelfCheckConfig(**values, sources=sources, warnings=command.warnings)
