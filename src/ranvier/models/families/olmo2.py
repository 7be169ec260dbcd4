"""`olmo2`: norms after the branches instead of before them, queries and keys normalized over all heads at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family, Parts
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, PARTS, SHARED, llama_like_spec
from ranvier.models.sources import Source
from ranvier.models.spec import DecoderSpec

_PARTS: Parts = {
    **PARTS,
    "attn_post_norm": Source(name="post_attention_layernorm"),
    "mlp_post_norm": Source(name="post_feedforward_layernorm"),
}


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    spec = llama_like_spec(ConfigFields(config), eps=1e-5)
    return replace(spec, block="post", attention=replace(spec.attention, qk_norm="width"))


FAMILY = Family(
    model_type="olmo2",
    serves="OLMo 2",
    gguf_architecture="olmo2",
    spec_from_config=spec_from_config,
    parts=lambda spec: _PARTS,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
