"""`starcoder2`: layer norms, biases, a plain GELU MLP, and a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family, Parts
from ranvier.models.families.llama_like import (
    BASE,
    LAYER_PREFIX,
    PARTS,
    SHARED,
    activation_of,
    llama_like_spec,
)
from ranvier.models.sources import Source
from ranvier.models.spec import DecoderSpec, NormSpec

_PARTS: Parts = {**PARTS, "up": Source(name="mlp.c_fc"), "down": Source(name="mlp.c_proj")}


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    activation = activation_of(fields, "hidden_act", "gelu_pytorch_tanh")
    spec = llama_like_spec(fields, is_tied=True, activation=activation)
    has_bias = fields.boolean("use_bias", True)
    return replace(
        spec,
        norm=NormSpec(kind="layer", eps=fields.number("norm_epsilon", 1e-5)),
        attention=replace(spec.attention, has_qkv_bias=has_bias, has_out_bias=has_bias),
        mlp=replace(spec.mlp, is_gated=False, has_bias=has_bias),
        layers=(replace(spec.layers[0], window=fields.optional_integer("sliding_window")),),
    )


FAMILY = Family(
    model_type="starcoder2",
    serves="StarCoder2",
    gguf_architecture="starcoder2",
    spec_from_config=spec_from_config,
    parts=lambda spec: _PARTS,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
