"""`granite`: Llama with multipliers on embeddings, attention scores, both branches and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, SHARED, llama_like_spec, llama_parts
from ranvier.models.spec import DecoderSpec, Multipliers


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    spec = llama_like_spec(fields)
    return replace(
        spec,
        attention=replace(spec.attention, scale=fields.number("attention_multiplier", 1.0)),
        multipliers=Multipliers(
            embedding=fields.number("embedding_multiplier", 1.0),
            residual=fields.number("residual_multiplier", 1.0),
            logits=1.0 / fields.number("logits_scaling", 1.0),
        ),
    )


FAMILY = Family(
    model_type="granite",
    serves="Granite 3.0-3.3 (dense)",
    gguf_architecture="granite",
    spec_from_config=spec_from_config,
    parts=llama_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
