"""One module for each `model_type`: config -> spec, our weight names -> the checkpoint's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import ModuleType

from ranvier.errors import ModelError
from ranvier.models.families import llama
from ranvier.models.spec import DecoderSpec

__all__ = ["family_of", "spec_of", "supported_families"]

_FAMILIES: Mapping[str, ModuleType] = {llama.MODEL_TYPE: llama}


def supported_families() -> tuple[str, ...]:
    """Every `model_type` that can be served, sorted."""
    return tuple(sorted(_FAMILIES))


def family_of(config: Mapping[str, object]) -> ModuleType:
    """The family module for a checkpoint's config. Raises `ModelError` for an unknown `model_type`."""
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in _FAMILIES:
        return _FAMILIES[model_type]
    near = difflib.get_close_matches(str(model_type), _FAMILIES, n=1)
    hint = f"; the nearest is `{near[0]}`" if near else ""
    raise ModelError(
        f"`model_type` {model_type!r} is not supported; supported: {', '.join(supported_families())}{hint}"
    )


def spec_of(config: Mapping[str, object]) -> DecoderSpec:
    """The decoder that a Hugging Face `config.json` describes. Raises `ModelError`."""
    spec: DecoderSpec = family_of(config).spec_from_config(config)
    return spec
