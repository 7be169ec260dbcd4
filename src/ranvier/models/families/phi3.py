"""`phi3`: Llama with fused weights, long rope (one set of factors within the original context, another beyond)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family, Parts
from ranvier.models.families.llama_like import BASE, LAYER_PREFIX, PARTS, SHARED, llama_like_spec
from ranvier.models.sources import Rows, Source
from ranvier.models.spec import DecoderSpec


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(_with_long_name(config))
    spec = llama_like_spec(fields, eps=1e-5)
    return replace(spec, layers=(replace(spec.layers[0], window=fields.optional_integer("sliding_window")),))


def _with_long_name(config: Mapping[str, object]) -> Mapping[str, object]:
    """Early releases call the family's long rope `su`, and one of them `yarn`; only here does that name mean it."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, Mapping) or scaling.get("type") != "yarn" or "short_factor" not in scaling:
        return config
    return {**config, "rope_scaling": {**scaling, "type": "longrope"}}


def _parts(spec: DecoderSpec) -> Parts:
    width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    inner, rows = spec.mlp.intermediate_size, width + 2 * kv_width
    return {
        **PARTS,
        "q": Source(name="self_attn.qkv_proj", rows=Rows(start=0, stop=width, every=rows)),
        "k": Source(name="self_attn.qkv_proj", rows=Rows(start=width, stop=width + kv_width, every=rows)),
        "v": Source(name="self_attn.qkv_proj", rows=Rows(start=width + kv_width, stop=rows, every=rows)),
        "gate": Source(name="mlp.gate_up_proj", rows=Rows(start=0, stop=inner, every=2 * inner)),
        "up": Source(name="mlp.gate_up_proj", rows=Rows(start=inner, stop=2 * inner, every=2 * inner)),
    }


FAMILY = Family(
    model_type="phi3",
    serves="Phi-3, Phi-3.5 mini, Phi-4, Phi-4 mini",
    gguf_architecture="phi3",
    spec_from_config=spec_from_config,
    parts=_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
