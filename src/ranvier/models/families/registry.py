"""Which families there are, and why others are not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ranvier.errors import ModelError
from ranvier.models.families import (
    falcon,
    gemma,
    gemma3_text,
    gpt2,
    gpt_neox,
    granite,
    llama,
    mistral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    smollm3,
    starcoder2,
)
from ranvier.models.families.family import Family
from ranvier.models.spec import DecoderSpec

_MODULES = (
    falcon,
    gemma,
    gemma3_text,
    gpt2,
    gpt_neox,
    granite,
    llama,
    mistral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    smollm3,
    starcoder2,
)
_FAMILIES: Mapping[str, Family] = {module.FAMILY.model_type: module.FAMILY for module in _MODULES}

_EXPERTS = (
    "sparse experts: the cpu target has no product over only a token's active experts, "
    "and computing all of them would cost many times as much"
)
_REFUSED: Mapping[str, str] = {
    "deepseek_v2": _EXPERTS,
    "deepseek_v3": _EXPERTS,
    "gemma2": "its attention scores go through a soft cap, which the cpu target's attention cannot compute exactly",
    "gpt_oss": _EXPERTS,
    "mixtral": _EXPERTS,
    "olmoe": _EXPERTS,
    "phimoe": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}


def supported_families() -> tuple[str, ...]:
    """Every `model_type` that can be served, sorted."""
    return tuple(sorted(_FAMILIES))


def refused_families() -> Mapping[str, str]:
    """Well-known `model_type`s that are refused, and why."""
    return _REFUSED


def family_of(config: Mapping[str, object]) -> Family:
    """The family of a checkpoint's config. Raises `ModelError` for an unknown or a refused `model_type`."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in _FAMILIES:
        return _FAMILIES[model_type]
    if isinstance(model_type, str) and model_type in _REFUSED:
        raise ModelError(f"`model_type` {model_type!r} is not supported: {_REFUSED[model_type]}")
    near = difflib.get_close_matches(str(model_type), _FAMILIES, n=3)
    hint = f"; the nearest: {', '.join(f'`{name}`' for name in near)}" if near else ""
    raise ModelError(
        f"`model_type` {model_type!r} is not supported; supported: {', '.join(supported_families())}{hint}"
    )


def spec_of(config: Mapping[str, object]) -> DecoderSpec:
    """The decoder that a Hugging Face `config.json` describes. Raises `ModelError`."""
    return family_of(config).spec_from_config(config)
