"""`neuron_config.json` of optimum-neuron 0.3 and 0.4, read without importing optimum-neuron.

Its own reader demands that both versions in the file are those installed, and needs the compiler. What the file says of
a model needs neither. Source: optimum-neuron 0.4.5, `configuration_utils.py` and
`models/inference/backend/config.py`; the extra fields of 0.3.0 are kept unread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ranvier.artifacts.manifest import DTYPES
from ranvier.artifacts.optimum.wish import Wish, is_same_compiler
from ranvier.errors import ArtifactError

NEURON_CONFIG_NAME = "neuron_config.json"

FLOAT_NAMES = DTYPES
"""What `--auto-cast-type` calls a type, and what torch calls it."""
_CAST_NAMES = {name: cast for cast, name in FLOAT_NAMES.items()}
_KEY = "NxDNeuronConfig"
_MOST = 2**31 - 1
"""The graphs take 32-bit positions and slots."""
_VERSIONS = re.compile(r"0\.[34](\D|$)")
_CORES_PER_DEVICE = {"trn2": 4, "trn3": 4}
_T = TypeVar("_T", int, bool, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimumConfig:
    """What a neuron_config.json says of the model beside it.

    * `batch_size`: rows of the decode graph; `max_batch_size`: rows of the KV cache. `sequence_length`: tokens that a
      row holds, prompt and output; `max_context_length`: the width of the prefill graph, so the longest prompt.
    * `tp_degree`, `ep_degree`, `pp_degree`: `world_size` is their product, in logical cores.
    * `auto_cast_type`: `bf16`, `fp16` or `fp32`; `dtype`: the same as torch calls it.
    * `target`: `trn1` (Inferentia2 too), `trn2`, or None where the file does not say.
    * `prefill_chunk_size`: 0 for none. `speculation_length`: 0 for none. `max_topk`: candidates on the device.
    * `checkpoint_id`, `checkpoint_revision`: where the weights come from. The two versions are full texts.
    * `unknown`: keys that are none of these, as they stand in the file.
    """

    batch_size: int
    max_batch_size: int
    sequence_length: int
    max_context_length: int
    tp_degree: int
    ep_degree: int
    pp_degree: int
    auto_cast_type: str
    target: str | None
    continuous_batching: bool
    on_device_sampling: bool
    max_topk: int
    output_logits: bool
    prefill_chunk_size: int
    speculation_length: int
    fused_qkv: bool
    checkpoint_id: str | None
    checkpoint_revision: str | None
    neuronxcc_version: str
    optimum_neuron_version: str
    unknown: Mapping[str, object] = field(default_factory=dict)

    @property
    def world_size(self) -> int:
        """Logical cores that the model takes."""
        return self.tp_degree * self.ep_degree * self.pp_degree

    @property
    def dtype(self) -> str:
        """The type of weights, activations and KV cache by torch's name."""
        return FLOAT_NAMES[self.auto_cast_type]

    @property
    def prefill_batch_size(self) -> int:
        """Rows of the prefill graph."""
        return 1 if self.continuous_batching else self.batch_size

    @property
    def num_devices(self) -> int:
        """Neuron devices that have `world_size` cores: 4 each on Trainium2 (two physical cores as one), else 2."""
        return -(-self.world_size // _CORES_PER_DEVICE.get(self.target or "", 2))


def is_optimum_model(directory: Path) -> bool:
    """Whether optimum-neuron exported this directory, of whatever version or kind it is."""
    return (directory / NEURON_CONFIG_NAME).is_file() or _is_traced(directory)


def read_optimum_config(directory: Path) -> OptimumConfig:
    """Read what optimum-neuron exported.

    Raises `ArtifactError` for a file that is not there or damaged, for traced models (no text generation), for other
    versions than 0.3 and 0.4, and for other kinds than one causal language model.
    """
    path = directory / NEURON_CONFIG_NAME
    if not path.is_file() and _is_traced(directory):
        raise ArtifactError(
            f"{directory}: a traced model (`neuron` inside config.json), which is no text generation model of "
            f"optimum-neuron 0.3 or 0.4; export it again as text-generation with optimum-neuron 0.4"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: not JSON; copy or export the model again") from None
    return parse_optimum_config(document, str(path))


def _is_traced(directory: Path) -> bool:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, Mapping) and isinstance(config.get("neuron"), Mapping)


def parse_optimum_config(document: object, where: str) -> OptimumConfig:
    """Take the fields out of a parsed neuron_config.json or of a registry entry's `neuron`.

    `where` begins each message. Raises `ArtifactError`.
    """
    if not isinstance(document, Mapping):
        raise ArtifactError(f"{where}: no JSON object; export the model again")
    fields = _Fields(document, where)
    _check_kind(fields)
    batch, sequence = fields.size("batch_size", 1), fields.size("sequence_length", 128)
    config = OptimumConfig(
        batch_size=batch,
        max_batch_size=fields.size("max_batch_size", batch),
        sequence_length=sequence,
        max_context_length=fields.size("max_context_length", sequence),
        tp_degree=fields.size("tp_degree", 1),
        ep_degree=fields.size("ep_degree", 1),
        pp_degree=fields.size("pp_degree", 1),
        auto_cast_type=_cast_type(fields),
        target=fields.optional("target"),
        continuous_batching=fields.flag("continuous_batching"),
        on_device_sampling=fields.flag("on_device_sampling"),
        max_topk=fields.size("max_topk", 256),
        output_logits=fields.flag("output_logits"),
        prefill_chunk_size=fields.size("prefill_chunk_size", 0, least=0),
        speculation_length=fields.size("speculation_length", 0, least=0),
        fused_qkv=fields.flag("fused_qkv"),
        checkpoint_id=fields.optional("checkpoint_id"),
        checkpoint_revision=fields.optional("checkpoint_revision"),
        neuronxcc_version=fields.text("neuronxcc_version"),
        optimum_neuron_version=fields.text("optimum_neuron_version"),
        unknown=fields.rest(),
    )
    if config.max_context_length > config.sequence_length:
        raise fields.error("max_context_length", f"a whole number up to `sequence_length`, which is {sequence}")
    return config


class _Fields:
    """A document's values by key, checked; remembers what was asked for."""

    def __init__(self, document: Mapping[str, object], where: str) -> None:
        self._document = document
        self._where = where
        self._asked = {"_serialized_key"}

    def error(self, name: str, wanted: str) -> ArtifactError:
        given = json.dumps(self._document.get(name))
        return ArtifactError(f"{self._where}: `{name}` must be {wanted}. Given: {given}; export the model again")

    def raw(self, name: str) -> object:
        self._asked.add(name)
        return self._document.get(name)

    def size(self, name: str, default: int, least: int = 1) -> int:
        wanted = f"a whole number from {least} to {_MOST}"
        value = self._of(name, int, default, wanted)
        if isinstance(value, bool) or not least <= value <= _MOST:
            raise self.error(name, wanted)
        return value

    def flag(self, name: str) -> bool:
        return self._of(name, bool, False, "true or false")

    def text(self, name: str) -> str:
        value = self._of(name, str, "", "text")
        if not value:
            raise ArtifactError(
                f"{self._where}: `{name}` is missing, so optimum-neuron older than 0.3 wrote it; export it again"
            )
        return value

    def optional(self, name: str) -> str | None:
        return self._of(name, str, "", "text") or None

    def _of(self, name: str, kind: type[_T], default: _T, wanted: str) -> _T:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self.error(name, wanted)
        return value

    def rest(self) -> dict[str, object]:
        return {name: value for name, value in self._document.items() if name not in self._asked}

    @property
    def where(self) -> str:
        return self._where


def _check_kind(fields: _Fields) -> None:
    """Only what 0.3 and 0.4 write for one causal language model."""
    key = fields.raw("_serialized_key")
    if key is None:
        raise ArtifactError(
            f"{fields.where}: `_serialized_key` is missing, so optimum-neuron older than 0.3 wrote it, or it is no "
            f"text generation model; export the model again with optimum-neuron 0.4"
        )
    if key != _KEY:
        raise ArtifactError(
            f"{fields.where}: `_serialized_key` is `{key}`, and only `{_KEY}` (causal language models) is served"
        )
    version = fields.text("optimum_neuron_version")
    if not _VERSIONS.match(version):
        raise ArtifactError(
            f"{fields.where}: `optimum_neuron_version` is {version}, and 0.3 and 0.4 are read; export the model again"
        )


def _cast_type(fields: _Fields) -> str:
    """The type, which has had three keys over time; the first that is there counts."""
    present = [name for name in ("auto_cast_type", "torch_dtype", "dtype") if fields.raw(name) is not None]
    if not present:
        return "bf16"
    value = (fields.optional(present[0]) or "").removeprefix("torch.")
    if value in FLOAT_NAMES:
        return value
    if value not in _CAST_NAMES:
        raise fields.error(present[0], "one of bfloat16, float16, float32")
    return _CAST_NAMES[value]


def check_wish(config: OptimumConfig, wish: Wish) -> None:
    """Raise `ArtifactError` for the first thing asked for that this exported model cannot do.

    A smaller batch, sequence or prompt than exported can be served; cores, type, target and versions are what they are.
    The message has both values, where the wish was said, and what to do.
    """
    for check in _CHECKS:
        reason = check(config, wish)
        if reason:
            raise ArtifactError(reason)


def too_few_cores(config: OptimumConfig, available: int, source: str) -> str:
    """Say how many devices have the cores that a model needs."""
    count = config.num_devices
    flags = " ".join(f"--device=/dev/neuron{index}" for index in range(count))
    noun = "device" if count == 1 else "devices"
    return (
        f"`tp_degree` of the exported model is {config.world_size} NeuronCores, and {source} is {available}; take a "
        f"host with {count} Neuron {noun}, or expose {count} {noun} to the container: {flags}"
    )


def _upper_bound(name: str, exported: Callable[[OptimumConfig], int], key: str) -> Callable[..., str]:
    def check(config: OptimumConfig, wish: Wish) -> str:
        wanted = getattr(wish, name)
        if wanted is None or wanted <= exported(config):
            return ""
        return (
            f"{wish.source(name)} is {wanted}, and `{key}` of the exported model is {exported(config)}; "
            f"lower it to {exported(config)} or less, or export the model for {wanted}"
        )

    return check


def _equal(name: str, exported: Callable[[OptimumConfig], object], key: str) -> Callable[..., str]:
    def check(config: OptimumConfig, wish: Wish) -> str:
        wanted = getattr(wish, name)
        if wanted is None or exported(config) in (None, wanted):
            return ""
        return (
            f"{wish.source(name)} is {wanted}, and `{key}` of the exported model is {exported(config)}; "
            f"use {exported(config)}, or export the model for {wanted}"
        )

    return check


def _room_for_output(config: OptimumConfig, wish: Wish) -> str:
    wanted = wish.max_input_tokens
    if wanted is None or wanted < config.sequence_length:
        return ""
    return (
        f"{wish.source('max_input_tokens')} is {wanted}, and `sequence_length` of the exported model is "
        f"{config.sequence_length}, which leaves no room for output; lower it, or export a longer sequence"
    )


def _available(config: OptimumConfig, wish: Wish) -> str:
    if wish.available_cores is None or config.world_size <= wish.available_cores:
        return ""
    source = wish.sources.get("available_cores", "what this process can use")
    return too_few_cores(config, wish.available_cores, source)


def _compiler(config: OptimumConfig, wish: Wish) -> str:
    wanted = wish.compiler_version
    if wanted is None or is_same_compiler(config.neuronxcc_version, wanted):
        return ""
    return (
        f"{wish.source('compiler_version')} is {wanted}, and `neuronxcc_version` of the exported model is "
        f"{config.neuronxcc_version}; use an image with that compiler, or export the model again with this one"
    )


_CHECKS: tuple[Callable[[OptimumConfig, Wish], str], ...] = (
    _upper_bound("batch_size", lambda config: config.batch_size, "batch_size"),
    _upper_bound("sequence_length", lambda config: config.sequence_length, "sequence_length"),
    _room_for_output,
    _upper_bound("max_input_tokens", lambda config: config.max_context_length, "max_context_length"),
    _equal("num_cores", lambda config: config.world_size, "tp_degree"),
    _equal("auto_cast_type", lambda config: config.auto_cast_type, "torch_dtype"),
    _equal("target", lambda config: config.target, "target"),
    _available,
    _compiler,
    _equal("optimum_version", lambda config: config.optimum_neuron_version, "optimum_neuron_version"),
)
