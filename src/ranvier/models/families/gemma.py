"""`gemma`: scaled embeddings, norm weights stored around 0, a GELU gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, SHARED, llama_like_spec, llama_parts
from ranvier.models.spec import DecoderSpec, MlpSpec, Multipliers

_GELU_NAMES = ("gelu", "gelu_pytorch_tanh")


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    # The first releases say `gelu` and mean the approximation, as their authors later clarified.
    for name in ("hidden_act", "hidden_activation"):
        if fields.text(name, _GELU_NAMES[0]) not in _GELU_NAMES:
            raise fields.unsupported(name, config[name], ", ".join(_GELU_NAMES))
    return with_gemma_traits(llama_like_spec(fields, is_tied=True, head_dim=256, activation="gelu_tanh"))


def with_gemma_traits(spec: DecoderSpec) -> DecoderSpec:
    """What all generations of Gemma have: norms around 0, and embeddings times the root of the width."""
    return replace(
        spec,
        norm=replace(spec.norm, offset=1.0),
        mlp=MlpSpec(intermediate_size=spec.mlp.intermediate_size, activation="gelu_tanh"),
        multipliers=Multipliers(embedding=math.sqrt(spec.hidden_size)),
    )


FAMILY = Family(
    model_type="gemma",
    serves="Gemma 1, CodeGemma",
    gguf_architecture="gemma",
    spec_from_config=spec_from_config,
    parts=llama_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
