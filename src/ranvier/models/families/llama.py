"""`llama`: Llama 2 and 3, and the many checkpoints that declare `model_type: llama` (SmolLM2, TinyLlama, …)."""

from __future__ import annotations

from collections.abc import Mapping

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, SHARED, llama_like_spec, llama_parts
from ranvier.models.spec import DecoderSpec


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    return llama_like_spec(ConfigFields(config))


FAMILY = Family(
    model_type="llama",
    serves="Llama 2, 3, 3.1-3.3, SmolLM2, TinyLlama",
    gguf_architecture="llama",
    spec_from_config=spec_from_config,
    parts=llama_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
