"""What an artifact is asked for: the fields that its key is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ranvier.artifacts.source import ModelSource

PACKING = "2"
"""Raised when the same options give another weights file, so that stored ones are not taken for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to make. `source` is local; None limits take the defaults, cut to what the model was made for."""

    source: ModelSource
    revision: str | None
    target: str
    batch_size: int | None
    sequence_length: int | None
    quantize: str
    dtype: str
    kv_cache_dtype: str

    @property
    def name(self) -> str:
        """What the artifact's directory in the store is called, before the digest."""
        return Path(self.source.model_id).name

    def weights_fields(self) -> dict[str, str]:
        """What the weights file depends on."""
        return {"source": _identity(self.source), "quantize": self.quantize, "dtype": self.dtype, "packing": PACKING}

    def key(self) -> dict[str, str]:
        """What the artifact depends on."""
        return self.weights_fields() | {
            "target": self.target,
            "batch_size": str(self.batch_size or "default"),
            "sequence_length": str(self.sequence_length or "default"),
            "kv_cache_dtype": self.kv_cache_dtype,
        }


def _identity(source: ModelSource) -> str:
    """The files by name, size and time of change: cheap, and different after any usual edit."""
    if source.path.is_dir():
        files = sorted(path for path in source.path.iterdir() if path.suffix in (".json", ".safetensors", ".jinja"))
    else:
        files = [source.path]
    stats = [(path, path.stat()) for path in files]
    return ";".join(f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats)
