"""Models and machines that plans are tested with."""

from __future__ import annotations

from typing import Any

from ranvier.models import DecoderSpec, spec_of

LLAMA_31_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
"""The published config, its rotary scaling left out: it changes no size."""

LLAMA_31_70B: dict[str, Any] = LLAMA_31_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}


def spec(config: dict[str, Any], **changes: Any) -> DecoderSpec:
    return spec_of(config | changes)
