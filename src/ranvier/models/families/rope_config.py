"""Rotary embeddings out of a `config.json`, in every spelling that Hugging Face has used.

`rope_theta` with `rope_scaling` (whose kind is `rope_type` or, older, `type`), and since transformers 5
`rope_parameters`, which holds all of it.
"""

from __future__ import annotations

import math

from ranvier.models.config_fields import ConfigFields
from ranvier.models.rope import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)

_SUPPORTED = "default, linear, llama3, yarn, longrope"


def rope_of(fields: ConfigFields, head_dim: int, *, theta: float = 10000.0, fraction: float = 1.0) -> RopeSpec:
    """The rotary embedding; `theta` and `fraction` (of the head that is rotated) hold where the config has none."""
    section = fields.section("rope_parameters")
    theta = section.number("rope_theta", fields.number("rope_theta", theta))
    fraction = section.number("partial_rotary_factor", fields.number("partial_rotary_factor", fraction))
    rotary_dim = int(head_dim * fraction)
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise fields.unsupported("partial_rotary_factor", fraction, f"an even share of {head_dim} dimensions")
    return RopeSpec(theta=theta, rotary_dim=rotary_dim, scaling=scaling_of(fields, rotary_dim))


def scaling_of(fields: ConfigFields, rotary_dim: int) -> RopeScaling | None:
    """The scaling that `rope_scaling` or `rope_parameters` asks for. Raises `ModelError` for one we do not have."""
    section = fields.section("rope_scaling")
    if not section.values:
        section = fields.section("rope_parameters")
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(factor=section.number("factor"))
    if kind == "factors":
        return FactorScaling(factors=section.numbers("factors", rotary_dim // 2))
    if kind == "llama3":
        return _llama3(section)
    if kind in ("longrope", "su"):
        return _long(fields, section, rotary_dim)
    if kind == "yarn":
        return _yarn(fields, section)
    if kind == "dynamic":
        # Keys are cached rotated; this kind would rotate all of them anew with each token.
        raise section.unsupported("rope_type", kind, f"{_SUPPORTED} (it changes with each request's length)")
    raise section.unsupported("rope_type", kind, _SUPPORTED)


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


def _original(fields: ConfigFields, section: ConfigFields) -> int:
    inner = section.integer("original_max_position_embeddings", fields.integer("max_position_embeddings"))
    return fields.integer("original_max_position_embeddings", inner)


def _long(fields: ConfigFields, section: ConfigFields, rotary_dim: int) -> LongScaling:
    original = _original(fields, section)
    factor = section.number("factor", fields.integer("max_position_embeddings") / original)
    magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongScaling(
        short_factors=section.numbers("short_factor", rotary_dim // 2),
        long_factors=section.numbers("long_factor", rotary_dim // 2),
        original_max_positions=original,
        magnitude=section.number("attention_factor", magnitude),
    )


def _yarn(fields: ConfigFields, section: ConfigFields) -> YarnScaling:
    original = _original(fields, section)
    factor = section.number("factor", fields.integer("max_position_embeddings") / original)
    for field in ("mscale", "mscale_all_dim"):
        if field in section.values:
            raise section.unsupported(field, section.values[field], "a config without it")
    return YarnScaling(
        factor=factor,
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        original_max_positions=original,
        is_truncated=section.boolean("truncate", True),
        magnitude=section.number("attention_factor", 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0),
    )
