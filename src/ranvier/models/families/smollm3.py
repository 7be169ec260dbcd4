"""`smollm3`: Llama in which every fourth layer rotates nothing."""

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


def spec_from_config(config: Mapping[str, object]) -> DecoderSpec:
    """The spec of a Hugging Face `config.json`. Raises `ModelError` for fields that are missing or unsupported."""
    fields = ConfigFields(config)
    spec = llama_like_spec(fields, is_tied=True, theta=2000000.0)
    return replace(spec, max_positions=fields.integer("max_position_embeddings", 32768), layers=_layers(fields, spec))


def _layers(fields: ConfigFields, spec: DecoderSpec) -> tuple[LayerSpec, ...]:
    (rotated,) = spec.layers
    rotates = _rotating_layers(fields, spec.num_layers)
    window = fields.optional_integer("sliding_window")
    if not fields.boolean("use_sliding_window", False):
        window = None
    # Only layers without positions slide, if any do.
    slides = sliding_layers(fields, spec.num_layers, lambda: tuple(not rotating for rotating in rotates))
    return tuple(
        LayerSpec(
            rope=rotated.rope if rotates[index % len(rotates)] else None,
            window=window if slides[index % len(slides)] else None,
        )
        for index in range(max(len(rotates), len(slides)))
    )


def _rotating_layers(fields: ConfigFields, num_layers: int) -> tuple[bool, ...]:
    """The pattern that repeats. Despite its name, `no_rope_layers` holds 1 for the layers that rotate."""
    if fields.values.get("no_rope_layers") is not None:
        return tuple(value == 1 for value in fields.choices("no_rope_layers", num_layers, (0, 1)))
    interval = fields.integer("no_rope_layer_interval", 4)
    return (True,) * (interval - 1) + (False,) if interval <= num_layers else (True,)


FAMILY = Family(
    model_type="smollm3",
    serves="SmolLM3",
    gguf_architecture="smollm3",
    spec_from_config=spec_from_config,
    parts=llama_parts,
    shared=SHARED,
    layer_prefix=LAYER_PREFIX,
    base=BASE,
)
