"""`qwen3`: Qwen 2 with normalized queries and keys instead of biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, SHARED, llama_like_spec, llama_parts
from ranvier.models.families.qwen2 import qwen_layers
from ranvier.models.spec import DecoderSpec


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    # 128 is what the family's configs mean when they leave the width of a head out.
    spec = llama_like_spec(fields, head_dim=128)
    return replace(spec, attention=replace(spec.attention, qk_norm="head"), layers=qwen_layers(fields, spec))


FAMILY = Family(
    model_type="qwen3",
    serves="Qwen 3 (dense)",
    gguf_architecture="qwen3",
    spec_from_config=spec_from_config,
    parts=llama_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
