"""Export requests for tests, and the tiny model they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ranvier.artifacts import ExportRequest, ModelSource, NeuronManifest, locate
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


def neuron_manifest(**changes: Any) -> NeuronManifest:
    """With a bucket of each kind and no files."""
    values: dict[str, Any] = {
        "num_cores": 1,
        "auto_cast_type": "bf16",
        "num_top": 8,
        "prefill": (32,),
        "chunk": (32,),
        "decode": (32,),
        "score": 32,
        "programs": (),
        "files": (),
        "jax": "0",
    }
    return NeuronManifest(**values | changes)
