"""`gpt2`: learned positions, layer norms, biases, a plain GELU MLP; matrices stored `[in, out]`, c_attn fused."""

from __future__ import annotations

from collections.abc import Mapping

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family, Parts
from ranvier.models.families.llama_like import activation_of
from ranvier.models.sources import Rows, Source
from ranvier.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormSpec


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if fields.boolean(name, False):
            raise fields.unsupported(name, True, "false")
    hidden, heads = fields.integer("n_embd"), fields.integer("n_head")
    if hidden % heads:
        raise fields.unsupported("n_embd", hidden, f"a multiple of `n_head`, {heads}")
    head_dim = hidden // heads
    return DecoderSpec(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        num_layers=fields.integer("n_layer"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        max_positions=fields.integer("n_positions", 1024),
        block="pre",
        norm=NormSpec(kind="layer", eps=fields.number("layer_norm_epsilon", 1e-5)),
        attention=AttentionSpec(
            scale=head_dim**-0.5 if fields.boolean("scale_attn_weights", True) else 1.0,
            has_qkv_bias=True,
            has_out_bias=True,
        ),
        layers=(LayerSpec(rope=None),),
        mlp=MlpSpec(
            intermediate_size=fields.integer("n_inner", 4 * hidden),
            activation=activation_of(fields, "activation_function", "gelu_new"),
            is_gated=False,
            has_bias=True,
        ),
        has_tied_head=fields.boolean("tie_word_embeddings", True),
        has_learned_positions=True,
    )


def _parts(spec: DecoderSpec) -> Parts:
    hidden = spec.hidden_size

    def part_of_c_attn(index: int) -> Source:
        rows = Rows(start=index * hidden, stop=(index + 1) * hidden, every=3 * hidden)
        return Source(name="attn.c_attn", rows=rows, is_transposed=True)

    return {
        "attn_norm": Source(name="ln_1"),
        "mlp_norm": Source(name="ln_2"),
        "q": part_of_c_attn(0),
        "k": part_of_c_attn(1),
        "v": part_of_c_attn(2),
        "o": Source(name="attn.c_proj", is_transposed=True),
        "up": Source(name="mlp.c_fc", is_transposed=True),
        "down": Source(name="mlp.c_proj", is_transposed=True),
    }


FAMILY = Family(
    model_type="gpt2",
    serves="GPT-2, DistilGPT2",
    limits="no scaling by layer index",
    gguf_architecture="gpt2",
    spec_from_config=spec_from_config,
    parts=_parts,
    shared={
        "embed": "transformer.wte",
        "positions": "transformer.wpe",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
    },
    layer_prefix="transformer.h.{}.",
    base="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),
)
