"""`gemma3_text`: Gemma with four norms a layer, normalized queries and keys, and local layers between global ones.

Local layers see a window and have a rotary base of their own; of `sliding_window_pattern` layers the last is global.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family, Parts
from ranvier.models.families.gemma import with_gemma_traits
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, PARTS, SHARED, llama_like_spec, sliding_layers
from ranvier.models.families.rope_config import rope_of
from ranvier.models.rope import RopeSpec
from ranvier.models.sources import Source
from ranvier.models.spec import AttentionSpec, DecoderSpec, LayerSpec

_PARTS: Parts = {
    **PARTS,
    "attn_post_norm": Source(name="post_attention_layernorm"),
    "mlp_norm": Source(name="pre_feedforward_layernorm"),
    "mlp_post_norm": Source(name="post_feedforward_layernorm"),
}


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    fields.require_value("hidden_activation", "gelu_pytorch_tanh")
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if config.get(name) is not None:
            raise fields.unsupported(name, config[name], "null")
    if fields.boolean("use_bidirectional_attention", False):
        raise fields.unsupported("use_bidirectional_attention", True, "false")
    plain = ConfigFields({name: value for name, value in config.items() if not name.startswith("rope_")})
    spec = with_gemma_traits(llama_like_spec(plain, is_tied=True, head_dim=256))
    has_bias = spec.attention.has_qkv_bias
    scale = fields.number("query_pre_attn_scalar", 256) ** -0.5
    return replace(
        spec,
        block="sandwich",
        max_positions=fields.integer("max_position_embeddings", 131072),
        attention=AttentionSpec(scale=scale, qk_norm="head", has_qkv_bias=has_bias, has_out_bias=has_bias),
        layers=_layers(fields, spec),
    )


def _layers(fields: ConfigFields, spec: DecoderSpec) -> tuple[LayerSpec, ...]:
    period = fields.integer("sliding_window_pattern", fields.integer("_sliding_window_pattern", 6))
    pattern = (True,) * (period - 1) + (False,) if period <= spec.num_layers else (True,)
    slides = sliding_layers(fields, spec.num_layers, lambda: pattern)
    local_rope, global_rope = _ropes(fields, spec.head_dim)
    local = LayerSpec(rope=local_rope, window=fields.integer("sliding_window", 4096))
    return tuple(local if is_sliding else LayerSpec(rope=global_rope) for is_sliding in slides)


def _ropes(fields: ConfigFields, head_dim: int) -> tuple[RopeSpec, RopeSpec]:
    """Local and global. `rope_scaling` is for the global layers only."""
    nested = fields.section("rope_parameters")
    if nested.values:
        local, full = nested.section("sliding_attention"), nested.section("full_attention")
        return (
            rope_of(ConfigFields({"rope_parameters": local.values}), head_dim, theta=10000.0),
            rope_of(ConfigFields({"rope_parameters": full.values}), head_dim, theta=1000000.0),
        )
    local_theta = fields.number("rope_local_base_freq", 10000.0)
    return RopeSpec(theta=local_theta, rotary_dim=head_dim), rope_of(fields, head_dim, theta=1000000.0)


FAMILY = Family(
    model_type="gemma3_text",
    serves="Gemma 3 270M and 1B, text-only exports of larger ones",
    limits="no images, no soft caps",
    gguf_architecture="gemma3",
    spec_from_config=spec_from_config,
    parts=lambda spec: _PARTS,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
