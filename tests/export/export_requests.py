"""Export requests for tests, and the tiny model they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ranvier.artifacts import ExportRequest, ModelSource, locate
from tiny_checkpoints import TinyModel

MODEL = TinyModel(num_layers=1)


def quiet(done: int, total: int) -> None:
    """No progress."""


def request(source: Path | ModelSource, **changes: Any) -> ExportRequest:
    values: dict[str, Any] = {
        "source": source if isinstance(source, ModelSource) else locate(str(source)),
        "revision": None,
        "target": "cpu",
        "batch_size": None,
        "sequence_length": None,
        "quantize": "none",
        "dtype": "float32",
        "kv_cache_dtype": "auto",
    }
    return ExportRequest(**values | changes)
