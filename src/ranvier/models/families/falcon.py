"""`falcon`: attention and MLP side by side; one key and value for all heads (7B) or for groups of heads (40B, 11B).

Query, key and value are fused: all queries of a group of heads, then its key, then its value.
"""

from __future__ import annotations

from collections.abc import Mapping

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family, Parts
from ranvier.models.families.llama_like import activation_of
from ranvier.models.families.rope_config import rope_of
from ranvier.models.sources import Rows, Source
from ranvier.models.spec import AttentionSpec, Block, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    if fields.boolean("alibi", False):
        raise fields.unsupported("alibi", True, "a model with rotary positions (`alibi` false)")
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads, head_dim = _kv_heads(fields, heads), hidden // heads
    if hidden % heads or heads % kv_heads:
        raise fields.unsupported("num_attention_heads", heads, f"a divisor of {hidden}, a multiple of {kv_heads}")
    has_bias = fields.boolean("bias", False)
    return DecoderSpec(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=fields.integer("max_position_embeddings", 2048),
        block=_block(fields),
        norm=NormSpec(kind="layer", eps=fields.number("layer_norm_epsilon", 1e-5)),
        attention=AttentionSpec(scale=head_dim**-0.5, has_qkv_bias=has_bias, has_out_bias=has_bias),
        layers=(LayerSpec(rope=rope_of(fields, head_dim)),),
        mlp=MlpSpec(
            intermediate_size=fields.integer("ffn_hidden_size", 4 * hidden),
            activation=activation_of(fields, "activation", "gelu"),
            is_gated=False,
            has_bias=has_bias,
        ),
        has_tied_head=fields.boolean("tie_word_embeddings", True),
    )


def _kv_heads(fields: ConfigFields, heads: int) -> int:
    if fields.boolean("new_decoder_architecture", False):
        return fields.integer("num_kv_heads", heads)
    return 1 if fields.boolean("multi_query", True) else fields.integer("num_kv_heads", heads)


def _block(fields: ConfigFields) -> Block:
    is_new = fields.boolean("new_decoder_architecture", False)
    if not is_new and not fields.boolean("parallel_attn", True):
        return "pre"
    norms = fields.integer("num_ln_in_parallel_attn", 2 if is_new else 1)
    return "parallel" if is_new and norms == 2 else "parallel_shared"


def _parts(spec: DecoderSpec) -> Parts:
    width = spec.head_dim
    queries = spec.num_heads // spec.num_kv_heads * width

    def rows(start: int, stop: int) -> Source:
        return Source(
            name="self_attention.query_key_value", rows=Rows(start=start, stop=stop, every=queries + 2 * width)
        )

    is_two_norms = spec.block == "parallel"
    return {
        "attn_norm": Source(name="ln_attn" if is_two_norms else "input_layernorm"),
        "mlp_norm": Source(name="ln_mlp" if is_two_norms else "post_attention_layernorm"),
        "q": rows(0, queries),
        "k": rows(queries, queries + width),
        "v": rows(queries + width, queries + 2 * width),
        "o": Source(name="self_attention.dense"),
        "up": Source(name="mlp.dense_h_to_4h"),
        "down": Source(name="mlp.dense_4h_to_h"),
    }


FAMILY = Family(
    model_type="falcon",
    serves="Falcon 7B, 40B, 180B, Falcon 2 11B",
    limits="no ALiBi (Falcon-RW)",
    gguf_architecture="falcon",
    spec_from_config=spec_from_config,
    parts=_parts,
    shared={"embed": "transformer.word_embeddings", "final_norm": "transformer.ln_f", "head": "lm_head"},
    layer_prefix="transformer.h.{}.",
    base="transformer.",
)
