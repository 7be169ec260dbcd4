"""`qwen2`: Llama with biases on queries, keys and values, and a sliding window in late layers where switched on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ranvier.models.config_fields import ConfigFields
from ranvier.models.families.family import Family
from ranvier.models.families.llama_like import (
    BASE,
    LAYER_PREFIX,
    SHARED,
    llama_like_spec,
    llama_parts,
    sliding_layers,
)
from ranvier.models.spec import DecoderSpec, LayerSpec

_MAX_LAYERS = 10_000
"""A damaged config could ask for so many that listing them would take all memory."""


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    spec = llama_like_spec(fields)
    attention = replace(spec.attention, has_qkv_bias=True, has_out_bias=False)
    return replace(spec, attention=attention, layers=qwen_layers(fields, spec))


def qwen_layers(fields: ConfigFields, spec: DecoderSpec) -> tuple[LayerSpec, ...]:
    """Layers from `max_window_layers` on see `sliding_window` tokens, if `use_sliding_window`."""
    (full,) = spec.layers
    window = fields.optional_integer("sliding_window", 4096)
    if not fields.boolean("use_sliding_window", False) or window is None:
        return (full,)
    if spec.num_layers > _MAX_LAYERS:
        raise fields.unsupported("num_hidden_layers", spec.num_layers, f"at most {_MAX_LAYERS}")
    first = fields.integer("max_window_layers", 28)
    slides = sliding_layers(fields, spec.num_layers, lambda: tuple(n >= first for n in range(spec.num_layers)))
    return tuple(replace(full, window=window) if is_sliding else full for is_sliding in slides)


FAMILY = Family(
    model_type="qwen2",
    serves="Qwen 1.5, 2, 2.5, DeepSeek-R1-Distill-Qwen",
    gguf_architecture="qwen2",
    spec_from_config=spec_from_config,
    parts=llama_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
