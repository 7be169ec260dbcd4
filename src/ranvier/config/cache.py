"""The config of `ranvier cache`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ranvier import __version__
from ranvier.config.command import read_command, values_by_field
from ranvier.config.neuron import AUTO_CAST_TYPE, INSTANCE, NUM_CORES, in_group
from ranvier.config.option import Option
from ranvier.config.options import select

_GROUP = "Neuron Model Cache"
_ASKED = "What is asked of the model"

SUBCOMMANDS: Mapping[str, str] = {
    "lookup": "Say which cached export of MODEL would be used, and why each other would not. Exit code 1 on a miss.",
    "why-miss": "As lookup, over the entries of every compiler and optimum-neuron version. Exit code 1 on a miss.",
    "list": "List the models in the repository's registry.",
    "pull": "Copy what one compiler made from the repository to the local compile cache, for hosts without network.",
    "push": "Copy finished modules and registry entries from the local compile cache to the repository.",
    "prune": "Remove failed and abandoned compiles and stale locks from the local compile cache.",
    "status": "Say what is in the local compile cache.",
}
"""Names of the subcommands and what each does."""
_WITH_MODEL = ("lookup", "why-miss")

_REPOSITORY = Option(
    flags=("--repository",),
    env=("CUSTOM_CACHE_REPO",),
    help="Cache repository: an id on the hub, or a directory in its layout.",
    group=_GROUP,
    metavar="ID_OR_DIRECTORY",
    default_text="the one in $HF_HOME/optimum_neuron_custom_cache, else aws-neuron/optimum-neuron-cache",
)
_CACHE_DIR = Option(
    flags=("--cache-dir", "--cache_dir"),
    env=(),
    help="Local compile cache.",
    group=_GROUP,
    kind="path",
    metavar="DIRECTORY",
    default_text="--cache_dir in NEURON_CC_FLAGS, else NEURON_COMPILE_CACHE_URL, else /var/tmp/neuron-compile-cache",
)
_COMPILER = Option(
    flags=("--compiler-version",),
    env=(),
    help="Version of neuronx-cc, with or without its build.",
    group=_GROUP,
    metavar="VERSION",
    default_text="the installed one, else the one of optimum-neuron 0.4.5",
)
_OPTIMUM = Option(
    flags=("--optimum-version",),
    env=(),
    help="Version of optimum-neuron.",
    group=_GROUP,
    metavar="VERSION",
    default_text="the installed one, else 0.4.5",
)
_JSON = Option(
    flags=("--json",),
    env=(),
    help="Print JSON.",
    group=_GROUP,
    kind="switch",
    default=False,
    field="as_json",
)
_DRY_RUN = Option(
    flags=("--dry-run",),
    env=(),
    help="Say what would be done, and do nothing.",
    group=_GROUP,
    kind="switch",
    default=False,
)
_MODULES = Option(
    flags=("--modules",),
    env=(),
    help="Only these MODULE_... folders, or those that begin so. May be repeated, and separated by commas.",
    group=_GROUP,
    kind="list",
    default_text="all",
)
_OLDER_THAN = Option(
    flags=("--older-than",),
    env=(),
    help="Remove finished modules too that were not written for so many days.",
    group=_GROUP,
    kind="decimal",
    maximum=math.inf,
    metavar="DAYS",
)


def _asked() -> tuple[Option, ...]:
    """What a wish is made of, under the launcher's names."""
    limits = select("max_batch_size", "max_total_tokens", "max_input_tokens", "max_input_length")
    limits = tuple(replace(option, default=None, default_text="any") for option in limits)
    cores = replace(NUM_CORES, help="NeuronCores that it uses at least.", default_text="any")
    cast_type = replace(AUTO_CAST_TYPE, help="Type of weights, activations and KV cache.", default_text="any")
    return in_group(_ASKED, *limits, cores, cast_type, INSTANCE)


def cache_options(subcommand: str) -> tuple[Option, ...]:
    """The options of one subcommand, in the order of help and docs. Raises `KeyError` for a name that is none."""
    return (*_OPTIONS[subcommand], _JSON, *select("help", "version"))


_LOOKUP = (_REPOSITORY, _CACHE_DIR, _COMPILER, _OPTIMUM, *_asked(), *select("revision", "huggingface_hub_cache"))
_OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "lookup": _LOOKUP,
    "why-miss": _LOOKUP,
    "list": (_REPOSITORY, _COMPILER, _OPTIMUM),
    "pull": (_REPOSITORY, _CACHE_DIR, _COMPILER, _MODULES, _DRY_RUN),
    "push": (_REPOSITORY, _CACHE_DIR, _DRY_RUN),
    "prune": (_CACHE_DIR, _OLDER_THAN, _DRY_RUN),
    "status": (_CACHE_DIR,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """What `ranvier cache` was told. None: not told, or not an option of this subcommand.

    Counts are 1 or more, `older_than` is in days, 0 or more. `sources` and `warnings` as in `LauncherConfig`.
    """

    subcommand: str
    model: str = ""
    repository: str | None = None
    cache_dir: str | None = None
    compiler_version: str | None = None
    optimum_version: str | None = None
    max_batch_size: int | None = None
    max_total_tokens: int | None = None
    max_input_tokens: int | None = None
    num_cores: int | None = None
    auto_cast_type: str | None = None
    instance: str | None = None
    revision: str | None = None
    hub_cache: str | None = None
    modules: tuple[str, ...] | None = None
    older_than: float | None = None
    dry_run: bool = False
    as_json: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_cache_config(argv: Sequence[str], environ: Mapping[str, str], prog: str) -> CacheConfig:
    """Read the arguments behind `cache` and the environment.

    Leaves and raises as `load_config` does.
    """
    name = argv[0] if argv else ""
    if name not in SUBCOMMANDS:
        _leave_without(name, prog)
    positionals = ("MODEL",) if name in _WITH_MODEL else ()
    command = read_command(
        argv[1:],
        _without_empty(environ),
        options=cache_options(name),
        prog=f"{prog} {name}",
        summary=SUBCOMMANDS[name],
        positionals=positionals,
    )
    values, sources = values_by_field(command.settings, environ)
    model = command.positionals[0] if positionals else ""
    return CacheConfig(subcommand=name, model=model, **values, sources=sources, warnings=command.warnings)


def _without_empty(environ: Mapping[str, str]) -> dict[str, str]:
    """An empty CUSTOM_CACHE_REPO counts as not set, as for optimum-neuron's users it does."""
    return {name: text for name, text in environ.items() if text or name not in _REPOSITORY.variables}


def _leave_without(name: str, prog: str) -> None:
    """Help, version, or a mistake: there is no subcommand."""
    lines = "\n".join(f"  {each:<9} {text}" for each, text in SUBCOMMANDS.items())
    usage = f"usage: {prog} <subcommand> [options]\n\nsubcommands:\n{lines}\n\n{prog} <subcommand> --help tells more.\n"
    if name in ("--help", "-h"):
        sys.stdout.write(usage)
        raise SystemExit(0)
    if name in ("--version", "-V"):
        sys.stdout.write(f"{prog} {__version__}\n")
        raise SystemExit(0)
    sys.stderr.write(f"error: {'unknown subcommand `' + name + '`' if name else 'no subcommand'}\n\n{usage}")
    raise SystemExit(2)
