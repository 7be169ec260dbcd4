"""`mistral`: Llama with a sliding window in every layer, which newer releases leave out (`sliding_window: null`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, SHARED, llama_like_spec, llama_parts
from ranvier.models.spec import DecoderSpec


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    spec = llama_like_spec(fields)
    window = fields.optional_integer("sliding_window", 4096)
    return replace(spec, layers=(replace(spec.layers[0], window=window),))


FAMILY = Family(
    model_type="mistral",
    serves="Mistral 7B, Mistral Nemo, Mistral Small (text)",
    limits="no images",
    gguf_architecture="llama",
    spec_from_config=spec_from_config,
    parts=llama_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
