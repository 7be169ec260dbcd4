"""Which precisions this processor runs well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import openvino as ov

from ranvier.errors import OptionError

InferencePrecision = Literal["float32", "bfloat16"]
KvPrecision = Literal["float32", "bfloat16", "u8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """`inference` is the type of products and activations, `kv` that of the KV cache."""

    inference: InferencePrecision
    kv: KvPrecision


def has_bfloat16(core: ov.Core) -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16, AMX, or SVE with BF16)."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def resolve_precision(core: ov.Core, dtype: str, kv_cache_dtype: str) -> Precision:
    """Fill in `auto` from the processor. Raises `OptionError` for bfloat16 where it is not in hardware."""
    fast = has_bfloat16(core)
    if dtype == "bfloat16" and not fast:
        raise OptionError("`dtype` bfloat16 needs a processor with AVX512-BF16 or AMX; use `--dtype float32`")
    inference: InferencePrecision = "bfloat16" if dtype == "bfloat16" or (dtype == "auto" and fast) else "float32"
    if kv_cache_dtype == "auto":
        return Precision(inference=inference, kv=inference)
    if kv_cache_dtype == "u8":
        return Precision(inference=inference, kv="u8")
    if kv_cache_dtype != inference:
        # The attention kernels are compiled for one of the two; a mix fails when the model is compiled.
        raise OptionError(
            f"`kv_cache_dtype` must be {inference} or u8 where `dtype` is {inference}. Given: {kv_cache_dtype}"
        )
    return Precision(inference=inference, kv=inference)
