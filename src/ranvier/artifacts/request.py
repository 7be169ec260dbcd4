"""What an artifact is asked for: the fields that its key is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ranvier.artifacts.source import ModelSource
from ranvier.errors import ModelError

PACKING = "2"
"""Raised when the same options give another weights file, so that stored ones are not taken for it."""

PROGRAMS = "1"
"""Raised when the Neuron target lowers other programs from the same options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronWish:
    """What an export for Neuron devices is asked for beside the rest; None is open.

    * `auto_cast_type`: `bf16`, `fp16` or `fp32`. `instance`: the instance type that the plan has to fit.
    * `lnc`: physical cores that are used as one.
    * `prefill`, `chunk`, `decode`: padded lengths, ascending; empty is open.
    * `compile_for`: `neuron` compiles with the devices of this host, `cpu` for their emulation, None not at all.
    """

    num_cores: int | None = None
    auto_cast_type: str = "bf16"
    instance: str | None = None
    lnc: int | None = None
    compile_for: str | None = None
    prefill: tuple[int, ...] = ()
    chunk: tuple[int, ...] = ()
    decode: tuple[int, ...] = ()

    def fields(self) -> dict[str, str]:
        """As an artifact's key lists them."""
        return {
            "num_cores": str(self.num_cores or "default"),
            "auto_cast_type": self.auto_cast_type,
            "instance": self.instance or "unknown",
            "lnc": str(self.lnc or "default"),
            "buckets": f"{self.prefill} {self.chunk} {self.decode}",
            "programs": PROGRAMS,
            "compiled_for": self.compile_for or "nothing",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to make. `source` is local; None limits take the defaults, cut to what the model was made for.

    `neuron` is there for that target and for no other.
    """

    source: ModelSource
    revision: str | None
    target: str
    batch_size: int | None
    sequence_length: int | None
    quantize: str
    dtype: str
    kv_cache_dtype: str
    neuron: NeuronWish | None = None

    @property
    def name(self) -> str:
        """What the artifact's directory in the store is called, before the digest."""
        return Path(self.source.model_id).name

    def weights_fields(self) -> dict[str, str]:
        """What the weights file depends on."""
        fields = {"source": _identity(self.source), "quantize": self.quantize, "dtype": self.dtype, "packing": PACKING}
        # These are cut for cores and filled up for programs: no other target's file is like them.
        return fields | (self._limits() | self.neuron.fields() if self.neuron else {})

    def key(self) -> dict[str, str]:
        """What the artifact depends on."""
        fields = {"target": self.target, "kv_cache_dtype": self.kv_cache_dtype}
        return self.weights_fields() | self._limits() | fields

    def _limits(self) -> dict[str, str]:
        return {
            "batch_size": str(self.batch_size or "default"),
            "sequence_length": str(self.sequence_length or "default"),
        }


def _identity(source: ModelSource) -> str:
    """The files by name, size and time of change: cheap, and different after any usual edit."""
    suffixes, files = (".json", ".safetensors", ".jinja"), [source.path]
    try:
        if source.path.is_dir():
            files = sorted(path for path in source.path.iterdir() if path.suffix in suffixes)
        stats = [(path, path.stat()) for path in files]
    except OSError as error:
        raise ModelError(f"cannot read {error.filename}: {error.strerror}") from None
    return ";".join(f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats)
