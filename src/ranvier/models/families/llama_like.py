"""What most families share with Llama: names, RMS norms before both branches, a gated SiLU MLP."""

from __future__ import annotations

from collections.abc import Callable

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Parts
from ranvier.models.families.rope_config import rope_of
from ranvier.models.sources import Source
from ranvier.models.spec import Activation, AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec

SHARED = {"embed": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
LAYER_PREFIX = "model.layers.{}."
BASE = "model."
PARTS: Parts = {
    "attn_norm": Source(name="input_layernorm"),
    "mlp_norm": Source(name="post_attention_layernorm"),
    "q": Source(name="self_attn.q_proj"),
    "k": Source(name="self_attn.k_proj"),
    "v": Source(name="self_attn.v_proj"),
    "o": Source(name="self_attn.o_proj"),
    "q_norm": Source(name="self_attn.q_norm"),
    "k_norm": Source(name="self_attn.k_norm"),
    "gate": Source(name="mlp.gate_proj"),
    "up": Source(name="mlp.up_proj"),
    "down": Source(name="mlp.down_proj"),
}

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def llama_parts(spec: DecoderSpec) -> Parts:
    """Llama's names within a layer, whatever the spec."""
    return PARTS


def llama_like_spec(
    fields: ConfigFields,
    *,
    is_tied: bool = False,
    theta: float = 10000.0,
    eps: float = 1e-6,
    head_dim: int | None = None,
    activation: Activation | None = None,
) -> DecoderSpec:
    """The spec of a config with Llama's fields; the arguments are the family's defaults.

    `activation` stands for the config's `hidden_act`, which must be `silu` where it is None. Raises `ModelError` for
    fields that are missing or unsupported.
    """
    if activation is None:
        fields.require_value("hidden_act", "silu")
    heads, kv_heads, head_dim = head_sizes(fields, head_dim)
    has_bias = fields.boolean("attention_bias", False)
    return DecoderSpec(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=fields.integer("max_position_embeddings", 2048),
        block="pre",
        norm=NormSpec(kind="rms", eps=fields.number("rms_norm_eps", eps)),
        attention=AttentionSpec(scale=head_dim**-0.5, has_qkv_bias=has_bias, has_out_bias=has_bias),
        layers=(LayerSpec(rope=rope_of(fields, head_dim, theta=theta)),),
        mlp=MlpSpec(
            intermediate_size=fields.integer("intermediate_size"),
            activation=activation or "silu",
            has_bias=fields.boolean("mlp_bias", False),
        ),
        has_tied_head=fields.boolean("tie_word_embeddings", is_tied),
    )


def head_sizes(fields: ConfigFields, default_head_dim: int | None = None) -> tuple[int, int, int]:
    """Query heads, key and value heads, and the width of each: by default the model's width over the heads."""
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    head_dim = fields.integer("head_dim", default_head_dim or hidden // heads)
    if heads % kv_heads:
        raise fields.unsupported("num_key_value_heads", kv_heads, f"a divisor of `num_attention_heads`, {heads}")
    if head_dim % 2:
        raise fields.unsupported("head_dim", head_dim, "an even number")
    return heads, kv_heads, head_dim


def activation_of(fields: ConfigFields, name: str, default: str) -> Activation:
    """The activation that field `name` asks for. Raises `ModelError` for one we do not have."""
    given = fields.text(name, default)
    if given not in _ACTIVATIONS:
        raise fields.unsupported(name, given, ", ".join(_ACTIVATIONS))
    return _ACTIVATIONS[given]


def sliding_layers(fields: ConfigFields, count: int, default: Callable[[], tuple[bool, ...]]) -> tuple[bool, ...]:
    """Which of `count` layers have the sliding window by the config's `layer_types`, else `default`'s pattern."""
    if fields.values.get("layer_types") is None:
        return default()
    kinds = fields.choices("layer_types", count, ("sliding_attention", "full_attention"))
    return tuple(kind == "sliding_attention" for kind in kinds)
