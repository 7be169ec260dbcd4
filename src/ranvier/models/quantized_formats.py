"""Weights that somebody else quantized: how each format packs them, and the form of ours that holds the same values.

| `quant_method` | tensors of a matrix | held as |
| --- | --- | --- |
| `gptq`, 4 bits | `qweight`, `qzeros`, `scales`, `g_idx` | int4 groups, exactly |
| `awq`, 4 bits, `gemm` | `qweight`, `qzeros`, `scales` | int4 groups, exactly |
| `compressed-tensors`, `pack-quantized` | `weight_packed`, `weight_scale`, `weight_zero_point` | int4, int8, exactly |
| `compressed-tensors`, `int-quantized` | `weight`, `weight_scale` | int8, exactly |
| `compressed-tensors`, `float-quantized`; `fp8` | `weight`, `weight_scale` or `weight_scale_inv` | dense float32 |

Activations that a format wants rounded too are not: the products here are weight-only. Letters: O rows, I columns,
G groups of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranvier.errors import ModelError
from ranvier.models.weights import (
    Array,
    Dense,
    FloatArray,
    Int4,
    Int8,
    Weight,
    from_bfloat16_bits,
    pack_nibbles,
    unpack_nibbles,
)

Parts = Mapping[str, Array]
"""The tensors of one matrix by the last part of their names."""

UNUSED = ("input_scale", "input_zero_point", "output_scale", "q_scale", "k_scale", "v_scale", "kv_scale")
"""Last parts of names: scales of activations and of a KV cache in 8 bits."""

OPTIONAL = ("g_idx", "weight_zero_point", "weight_shape", "weight_g_idx")
"""Parts that a matrix may do without."""

_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedFormat:
    """`marker` is the part that only quantized matrices have; `parts` are all that one may have."""

    marker: str
    parts: tuple[str, ...]
    read: Callable[[str, Parts], Weight]


def format_of(config: Mapping[str, object]) -> QuantizedFormat | None:
    """The format that a config's `quantization_config` names, or None for weights that are not quantized.

    Raises `ModelError` for one that cannot be held.
    """
    fields = config.get("quantization_config")
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise ModelError(f"`quantization_config` must be an object. Given: {fields!r}")
    method = fields.get("quant_method")
    chosen = _METHODS.get(str(method))
    if chosen is None:
        known = ", ".join(sorted(_METHODS))
        raise ModelError(
            f"`quantization_config.quant_method` {method!r} is not supported; supported: {known}. "
            "Use the model before it was quantized, with --quantize int8 or int4"
        )
    return chosen(fields)


def _refused(field: str, given: object, wanted: str) -> ModelError:
    return ModelError(
        f"`quantization_config.{field}` must be {wanted} to be loaded. Given: {given!r}; "
        "use the model before it was quantized, with --quantize int8 or int4"
    )


def _require(fields: Mapping[str, object], field: str, *allowed: object) -> None:
    if fields.get(field, allowed[0]) not in allowed:
        raise _refused(field, fields[field], " or ".join(str(value) for value in allowed))


# GPTQ. Layout: AutoGPTQ, `auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py`, `pack`; codes of 8 rows of the
# transposed matrix to an int32, the lowest bits first.


def _gptq(fields: Mapping[str, object]) -> QuantizedFormat:
    _require(fields, "bits", 4)
    _require(fields, "checkpoint_format", "gptq", "gptq_v2")
    # The first version stores zero points less one, as its packing does; the second as they are.
    less = 0 if fields.get("checkpoint_format") == "gptq_v2" else 1
    return QuantizedFormat(
        marker="qweight",
        parts=("qweight", "qzeros", "scales", "g_idx"),
        read=lambda name, parts: _read_gptq(name, parts, less),
    )


def _read_gptq(name: str, parts: Parts, less: int) -> Int4:
    codes = _bytes_of(name, parts["qweight"].T)
    scales_OG = _floats(name, parts["scales"]).T
    zeros = unpack_nibbles(_bytes_of(name, parts["qzeros"])).T + np.uint8(less)
    weight = _int4(name, codes, scales_OG, zeros)
    _check_order(name, parts.get("g_idx"), weight)
    return weight


def _check_order(name: str, groups_I: Array | None, weight: Int4) -> None:
    columns = weight.shape[1]
    if groups_I is None or np.array_equal(groups_I, np.arange(columns) // (columns // weight.scales.shape[1])):
        return
    raise ModelError(
        f"tensor `{name}`: its columns are grouped out of order (`desc_act` or `actorder`), which cannot be held; "
        "use a checkpoint made without it"
    )


# AWQ. Layout: AutoAWQ, `awq/modules/linear/gemm.py`, `from_linear`; 8 columns of the transposed matrix to an int32,
# in the order 0 2 4 6 1 3 5 7.


def _awq(fields: Mapping[str, object]) -> QuantizedFormat:
    _require(fields, "bits", 4)
    version = fields.get("version", "gemm")
    if str(version).lower() != "gemm":
        raise _refused("version", version, "gemm")
    return QuantizedFormat(marker="qweight", parts=("qweight", "qzeros", "scales"), read=_read_awq)


def _read_awq(name: str, parts: Parts) -> Int4:
    codes_OI = _awq_codes(name, parts["qweight"])
    if codes_OI.shape[1] % 2:
        raise _misshapen(name)
    zeros_OG = _awq_codes(name, parts["qzeros"])
    return _int4(name, pack_nibbles(codes_OI), _floats(name, parts["scales"]).T, zeros_OG)


def _awq_codes(name: str, packed: Array) -> npt.NDArray[np.uint8]:
    stored = unpack_nibbles(_bytes_of(name, packed)).reshape(packed.shape[0], -1, 8)
    codes = np.empty_like(stored)
    codes[..., _AWQ_ORDER] = stored
    return np.ascontiguousarray(codes.reshape(packed.shape[0], -1).T)


# FP8. Values: OCP 8-bit floating point, E4M3 (https://arxiv.org/abs/2209.05433), no infinities; scales are for the
# whole matrix, for rows, or for blocks of it (DeepSeek-V3's `weight_scale_inv`, which is multiplied all the same).


def _fp8(fields: Mapping[str, object]) -> QuantizedFormat:
    _require(fields, "fmt", "e4m3", "float8_e4m3fn")
    block = fields.get("weight_block_size")
    if block is None:
        return _scaled_floats("weight_scale", None)
    if not (isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)):
        raise _refused("weight_block_size", block, "two whole numbers above 0")
    return _scaled_floats("weight_scale_inv", (block[0], block[1]))


def _scaled_floats(scale: str, block: tuple[int, int] | None) -> QuantizedFormat:
    return QuantizedFormat(
        marker=scale, parts=("weight", scale), read=lambda name, parts: _read_fp8(name, parts, scale, block)
    )


def _read_fp8(name: str, parts: Parts, scale: str, block: tuple[int, int] | None) -> Dense:
    if parts["weight"].dtype != np.uint8 or parts["weight"].ndim != 2:
        raise _misshapen(name)
    values: FloatArray = e4m3_values()[parts["weight"]]
    scales = _floats(name, parts[scale])
    rows, columns = values.shape
    if block is None:
        # One, or one for each row.
        if scales.size not in (1, rows):
            raise _misshapen(name)
        values *= scales.reshape(-1, 1)
        return Dense(values)
    if scales.shape != (-(-rows // block[0]), -(-columns // block[1])):
        raise _misshapen(name)
    for index, row_scales in enumerate(scales):
        values[index * block[0] : (index + 1) * block[0]] *= np.repeat(row_scales, block[1])[:columns]
    return Dense(values)


def e4m3_values() -> FloatArray:
    """What each of the 256 bytes stands for: sign, 4 bits of exponent (bias 7), 3 of mantissa; 0x7f, 0xff are NaN."""
    codes = np.arange(256)
    sign, exponent, mantissa = np.where(codes < 128, 1.0, -1.0), (codes >> 3) & 15, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)
    values = (sign * np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)).astype(np.float32)
    values[[0x7F, 0xFF]] = np.nan
    return values


# compressed-tensors (https://github.com/vllm-project/compressed-tensors). Packed codes are moved into the unsigned
# range by half of it and stand eight (or four) to an int32, the lowest bits first: along columns for weights, along
# rows for zero points.


def _compressed(fields: Mapping[str, object]) -> QuantizedFormat:
    sparsity = fields.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format") not in (None, "dense"):
        raise _refused("sparsity_config.format", sparsity["format"], "dense")
    kind = fields.get("format")
    groups = fields.get("config_groups")
    schemes = [g.get("weights") for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    widths = {scheme.get("num_bits") for scheme in schemes if isinstance(scheme, dict)}
    if kind == "pack-quantized" and widths in ({4}, {8}):
        bits = 4 if widths == {4} else 8
        parts = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
        return QuantizedFormat(
            marker="weight_packed", parts=parts, read=lambda name, given: _read_packed(name, given, bits)
        )
    if kind == "int-quantized" and widths == {8}:
        return QuantizedFormat(
            marker="weight_scale", parts=("weight", "weight_scale", "weight_zero_point"), read=_read_int8
        )
    if kind == "float-quantized" and widths == {8}:
        return _scaled_floats("weight_scale", None)
    raise ModelError(
        f"`quantization_config.format` {kind!r} with weights of {sorted(map(str, widths))} bits is not supported; "
        "supported: pack-quantized with 4 or 8 bits, int-quantized and float-quantized with 8"
    )


def _read_packed(name: str, parts: Parts, bits: int) -> Weight:
    if "weight_shape" in parts:
        rows, columns = (int(size) for size in parts["weight_shape"].reshape(-1)[:2])
        if parts["weight_packed"].shape != (rows, columns * bits // 32):
            raise _misshapen(name)
    stored = _bytes_of(name, parts["weight_packed"])
    scales_OG = _floats(name, parts["weight_scale"])
    zeros = parts.get("weight_zero_point")
    if bits == 8:
        if zeros is not None:
            raise _refused("config_groups", "8 bits with zero points", "symmetric")
        return _int8(name, (stored ^ np.uint8(128)).view(np.int8), scales_OG)
    if zeros is None:
        zeros_OG = np.full(scales_OG.shape, 8, np.uint8)
    else:
        zeros_OG = unpack_nibbles(_bytes_of(name, zeros.T)).T[: len(stored)]
    weight = _int4(name, stored, scales_OG, zeros_OG)
    _check_order(name, parts.get("weight_g_idx"), weight)
    return weight


def _read_int8(name: str, parts: Parts) -> Int8:
    if "weight_zero_point" in parts and parts["weight_zero_point"].any():
        raise _refused("config_groups", "8 bits with zero points", "symmetric")
    codes = parts["weight"]
    if codes.dtype != np.int8 or codes.ndim != 2:
        raise _misshapen(name)
    scales = _floats(name, parts["weight_scale"])
    if scales.size == 1:
        scales = np.full((codes.shape[0], 1), scales.reshape(-1)[0], np.float32)
    return _int8(name, codes, scales.reshape(scales.shape[0], -1))


# What they share


def _bytes_of(name: str, packed: Array) -> npt.NDArray[np.uint8]:
    """A matrix of int32 as bytes, lowest first: rows are as they were, columns four times as many."""
    if packed.dtype != np.int32 or packed.ndim != 2:
        raise _misshapen(name)
    return np.ascontiguousarray(packed.astype("<i4", copy=False)).view(np.uint8)


def _floats(name: str, values: Array) -> FloatArray:
    if values.dtype == np.uint16:
        return from_bfloat16_bits(values)
    if values.dtype not in (np.float16, np.float32):
        raise _misshapen(name)
    return values.astype(np.float32)


def _int4(name: str, codes: npt.NDArray[np.uint8], scales_OG: FloatArray, zeros_OG: npt.NDArray[np.uint8]) -> Int4:
    rows, columns = codes.shape[0], codes.shape[1] * 2
    if scales_OG.ndim != 2 or scales_OG.shape != zeros_OG.shape or len(scales_OG) != rows:
        raise _misshapen(name)
    if scales_OG.shape[1] == 0 or columns % scales_OG.shape[1]:
        raise _misshapen(name)
    return Int4(codes, np.ascontiguousarray(scales_OG), np.ascontiguousarray(zeros_OG))


def _int8(name: str, codes: npt.NDArray[np.int8], scales_OG: FloatArray) -> Int8:
    if scales_OG.ndim != 2 or len(scales_OG) != len(codes) or codes.shape[1] % max(scales_OG.shape[1], 1):
        raise _misshapen(name)
    return Int8(codes, scales_OG)


def _misshapen(name: str) -> ModelError:
    return ModelError(
        f"tensor `{name}`: its quantized parts do not fit each other or have other types than their format says; "
        "the checkpoint is damaged"
    )


_METHODS: dict[str, Callable[[Mapping[str, object]], QuantizedFormat]] = {
    "awq": _awq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "gptq": _gptq,
}
