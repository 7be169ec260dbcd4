"""`llama`: Llama 2 and 3, and the many checkpoints that declare `model_type: llama` (SmolLM2, TinyLlama, …)."""

from __future__ import annotations

from collections.abc import Mapping

from ranvier.models.config_fields import ConfigFields
from ranvier.models.spec import DecoderSpec, FactorScaling, LinearScaling, Llama3Scaling, RopeScaling, RopeSpec

MODEL_TYPE = "llama"


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    fields.require_value("hidden_act", "silu")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads, head_dim = fields.integer("num_key_value_heads", heads), fields.integer("head_dim", hidden // heads)
    if heads % kv_heads:
        raise fields.unsupported("num_key_value_heads", kv_heads, f"a divisor of `num_attention_heads`, {heads}")
    if head_dim % 2:
        raise fields.unsupported("head_dim", head_dim, "an even number")
    return DecoderSpec(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        max_positions=fields.integer("max_position_embeddings", 2048),
        rope=RopeSpec(theta=_theta(fields), scaling=_scaling(fields, head_dim)),
        has_tied_head=fields.boolean("tie_word_embeddings", False),
        has_attention_bias=fields.boolean("attention_bias", False),
        has_mlp_bias=fields.boolean("mlp_bias", False),
    )


def _theta(fields: ConfigFields) -> float:
    # transformers 5 writes `rope_parameters` and leaves `rope_theta` out.
    return fields.section("rope_parameters").number("rope_theta", fields.number("rope_theta", 10000.0))


def _scaling(fields: ConfigFields, head_dim: int) -> RopeScaling | None:
    section = fields.section("rope_scaling")
    if not section.values:
        section = fields.section("rope_parameters")
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(factor=section.number("factor"))
    if kind == "factors":
        return FactorScaling(factors=section.numbers("factors", head_dim // 2))
    if kind == "llama3":
        return _llama3(section)
    raise section.unsupported("rope_type", kind, "default, linear, llama3")


def _llama3(section: ConfigFields) -> Llama3Scaling:
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    if high <= low:
        raise section.unsupported("high_freq_factor", high, f"a number above `low_freq_factor`, {low}")
    return Llama3Scaling(
        factor=section.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=section.integer("original_max_position_embeddings"),
    )


def weight_names(spec: DecoderSpec) -> dict[str, str]:
    """Our tensor name -> the checkpoint's, for every tensor the decoder needs."""
    names = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight"}
    if not spec.has_tied_head:
        names["head"] = "lm_head.weight"
    for layer in range(spec.num_layers):
        names |= _layer_names(spec, layer)
    return names


def _layer_names(spec: DecoderSpec, layer: int) -> dict[str, str]:
    ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
    names = {
        ours + "attn_norm": theirs + "input_layernorm.weight",
        ours + "mlp_norm": theirs + "post_attention_layernorm.weight",
    }
    for part in ("q", "k", "v", "o"):
        names[ours + part] = f"{theirs}self_attn.{part}_proj.weight"
        if spec.has_attention_bias:
            names[f"{ours}{part}.bias"] = f"{theirs}self_attn.{part}_proj.bias"
    for part in ("gate", "up", "down"):
        names[ours + part] = f"{theirs}mlp.{part}_proj.weight"
        if spec.has_mlp_bias:
            names[f"{ours}{part}.bias"] = f"{theirs}mlp.{part}_proj.bias"
    return names


def is_ignored(name: str) -> bool:
    """Whether a checkpoint tensor may be left unread: buffers that old exports saved."""
    return name.endswith("rotary_emb.inv_freq")
