"""`gpt_neox`: attention and MLP side by side, a part of each head rotated, query, key and value fused head by head."""

from __future__ import annotations

from collections.abc import Mapping

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family, Parts
from ranvier.models.families.llama_like import activation_of, head_sizes
from ranvier.models.families.rope_config import rope_of
from ranvier.models.sources import Rows, Source
from ranvier.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    heads, kv_heads, head_dim = head_sizes(fields)
    has_bias = fields.boolean("attention_bias", True)
    theta, fraction = fields.number("rotary_emb_base", 10000.0), fields.number("rotary_pct", 0.25)
    return DecoderSpec(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=fields.integer("max_position_embeddings", 2048),
        block="parallel" if fields.boolean("use_parallel_residual", True) else "pre",
        norm=NormSpec(kind="layer", eps=fields.number("layer_norm_eps", 1e-5)),
        attention=AttentionSpec(scale=head_dim**-0.5, has_qkv_bias=has_bias, has_out_bias=has_bias),
        layers=(LayerSpec(rope=rope_of(fields, head_dim, theta=theta, fraction=fraction)),),
        mlp=MlpSpec(
            intermediate_size=fields.integer("intermediate_size"),
            activation=activation_of(fields, "hidden_act", "gelu"),
            is_gated=False,
            has_bias=True,
        ),
        has_tied_head=fields.boolean("tie_word_embeddings", False),
    )


def _parts(spec: DecoderSpec) -> Parts:
    width = spec.head_dim

    def third_of_each_head(index: int) -> Source:
        rows = Rows(start=index * width, stop=(index + 1) * width, every=3 * width)
        return Source(name="attention.query_key_value", rows=rows)

    return {
        "attn_norm": Source(name="input_layernorm"),
        "mlp_norm": Source(name="post_attention_layernorm"),
        "q": third_of_each_head(0),
        "k": third_of_each_head(1),
        "v": third_of_each_head(2),
        "o": Source(name="attention.dense"),
        "up": Source(name="mlp.dense_h_to_4h"),
        "down": Source(name="mlp.dense_4h_to_h"),
    }


FAMILY = Family(
    model_type="gpt_neox",
    serves="GPT-NeoX, Pythia",
    gguf_architecture="gptneox",
    spec_from_config=spec_from_config,
    parts=_parts,
    shared={"embed": "gpt_neox.embed_in", "final_norm": "gpt_neox.final_layer_norm", "head": "embed_out"},
    layer_prefix="gpt_neox.layers.{}.",
    base="gpt_neox.",
    aliases={"embed_out.weight": "lm_head.weight"},
    ignored=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
)
