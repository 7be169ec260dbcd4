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
    if kv_cache_dtype not in ("float32", "bfloat16", "u8"):
        raise OptionError(f"`kv_cache_dtype` must be auto, float32, bfloat16 or u8. Given: {kv_cache_dtype}")
    kv: KvPrecision = kv_cache_dtype  # type: ignore[assignment]  # narrowed by the test above, on Python 3.10 too
    if kv == "bfloat16" and inference == "float32" and not fast:
        raise OptionError("`kv_cache_dtype` bfloat16 needs a processor with bfloat16; use float32 or u8")
    return Precision(inference=inference, kv=kv)
