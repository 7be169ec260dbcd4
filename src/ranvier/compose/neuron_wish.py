"""What the options and the host say about an artifact for Neuron devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ranvier.artifacts import NeuronWish
from ranvier.config import ExportConfig, LauncherConfig
from ranvier.config.neuron import BUCKETS, INSTANCE, LNC, NEURON_OPTIONS, NEURON_TARGETS
from ranvier.errors import OptionError
from ranvier.neuron_host import NeuronHost, chip_of, compile_target, discover

_OPTIONS = tuple(option.name for option in (*NEURON_OPTIONS, INSTANCE, LNC, *BUCKETS))
_BY_DTYPE = {"auto": "bf16", "bfloat16": "bf16", "float32": "fp32"}


def neuron_wish(config: LauncherConfig | ExportConfig, root: Path = Path("/")) -> NeuronWish | None:
    """The wish, for target neuron. `root`: where devices are looked for.

    Raises `OptionError` when options contradict each other, and where a server has no device to run on.
    """
    if config.target != "neuron":
        return None
    cast_type = _cast_type(config)
    wish = NeuronWish(num_cores=config.num_cores, auto_cast_type=cast_type)
    if isinstance(config, ExportConfig):
        prefill, chunk, decode = (_buckets(config, name) for name in ("prefill", "chunk", "decode"))
        wish = replace(wish, instance=config.instance, lnc=config.lnc, prefill=prefill, chunk=chunk, decode=decode)
    if config.emulate_neuron:
        return replace(wish, compile_for="cpu")
    host = discover(root)
    if isinstance(config, LauncherConfig):
        host.require_cores(config.num_cores or 1)
    return replace(
        wish,
        instance=wish.instance or _planned_instance(host),
        lnc=wish.lnc or (host.lnc if host.chip else None),
        compile_for="neuron" if _can_compile(host, wish.instance) else None,
    )


def without_effect(config: LauncherConfig | ExportConfig) -> tuple[str, ...]:
    """Sentences about options of the Neuron targets that were given for another one."""
    if config.target in NEURON_TARGETS:
        return ()
    given = {name: config.sources.get(name, "default") for name in _OPTIONS}
    return tuple(
        f"`{name}` by {source} has no effect on target {config.target}"
        for name, source in given.items()
        if source != "default"
    )


def _buckets(config: ExportConfig, name: str) -> tuple[int, ...]:
    texts: tuple[str, ...] = getattr(config, f"{name}_buckets")
    if not all(text.isdecimal() and text.isascii() and len(text) < 8 for text in texts):
        raise OptionError(f"`{name}_buckets` must be whole numbers such as `128,512`. Given: {','.join(texts)}")
    return tuple(map(int, texts))


def _planned_instance(host: NeuronHost) -> str | None:
    """The instance type of the host, where it can be planned for: a new one may serve all the same."""
    # Imported here: the router's process imports this module and needs no NumPy.
    from ranvier.planner import INSTANCES

    return host.instance_type if host.instance_type in {instance.name for instance in INSTANCES} else None


def _can_compile(host: NeuronHost, instance: str | None) -> bool:
    """Whether this host's devices are what the artifact is for."""
    if not host.usable_devices or instance is None or host.chip is None:
        return bool(host.usable_devices)
    chip = chip_of(instance)
    return chip is not None and compile_target(chip.target) == compile_target(host.chip.target)


def _cast_type(config: LauncherConfig | ExportConfig) -> str:
    by_dtype = _BY_DTYPE[config.dtype]
    if config.auto_cast_type is None or config.dtype == "auto" or config.auto_cast_type == by_dtype:
        return config.auto_cast_type or by_dtype
    raise OptionError(
        f"`auto_cast_type` is {config.auto_cast_type} and `dtype` is {config.dtype}, which contradict each other; "
        "leave one of them out"
    )
