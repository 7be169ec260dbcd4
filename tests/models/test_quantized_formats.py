"""Checkpoints that others quantized, against packing and dequantization written plainly from each format's source.

Each writer below packs known codes value by value, as the format's own code does in its loops; what is read must be the
values that the codes stand for, to the bit where codes are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ranvier.errors import ModelError
from ranvier.models import PackedWeights, SafetensorsCheckpoint, WeightPlan, write_weights
from ranvier.models.quantized_formats import e4m3_values, format_of
from ranvier.models.weights import Dense, Int4, Int8, dequantize
from tiny_checkpoints import TinyModel

Array = npt.NDArray[Any]
ROWS, COLUMNS, GROUP = 16, 64, 32
NAME = "model.layers.0.mlp.up_proj"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
FP8_BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [8, 32], "activation_scheme": "dynamic"}
FP8 = {"quant_method": "fp8", "activation_scheme": "static"}


def compressed(kind: str, bits: int, **weights: Any) -> dict[str, Any]:
    scheme = {"num_bits": bits, "type": "float" if kind == "float-quantized" else "int", **weights}
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": kind, "config_groups": groups, "ignore": ["lm_head"]}


def write(folder: Path, tensors: Mapping[str, tuple[str, Array]], config: Mapping[str, Any]) -> Path:
    """A directory with `config.json` and one file of tensors `(dtype code, array)`."""
    folder.mkdir(exist_ok=True)
    header: dict[str, Any] = {}
    data = b""
    for name, (code, values) in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def read(folder: Path, parts: Mapping[str, tuple[str, Array]], quantization: Mapping[str, Any]) -> Any:
    tensors = {f"{NAME}.{part}": value for part, value in parts.items()}
    return SafetensorsCheckpoint(write(folder, tensors, {"quantization_config": quantization})).read(f"{NAME}.weight")


def refused(folder: Path, parts: Mapping[str, tuple[str, Array]], quantization: Mapping[str, Any]) -> str:
    with pytest.raises(ModelError) as caught:
        read(folder, parts, quantization)
    return str(caught.value)


def random_codes(seed: int, high: int = 16) -> tuple[Array, Array, Array]:
    """Codes `[rows, columns]`, float16 scales and zero points 1 … 15 `[rows, groups]`."""
    random = np.random.default_rng(seed)
    groups = COLUMNS // GROUP
    return (
        random.integers(0, high, (ROWS, COLUMNS)),
        random.uniform(0.01, 1, (ROWS, groups)).astype(np.float16),
        random.integers(1, 16, (ROWS, groups)),
    )


def expected(codes: Array, scales: Array, zeros: Array) -> Array:
    """Value by value: (code - zero) * scale, of the group that the column is in."""
    out = np.zeros(codes.shape, np.float32)
    width = codes.shape[1] // scales.shape[1]
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            group = column // width
            out[row, column] = np.float32(int(codes[row, column]) - int(zeros[row, group])) * np.float32(
                scales[row, group]
            )
    return out


def packed_down(matrix: Array, bits: int = 4) -> Array:
    """Rows into int32, several rows to one, the first in the lowest bits."""
    each = 32 // bits
    out = np.zeros((matrix.shape[0] // each, matrix.shape[1]), np.uint32)
    for row in range(matrix.shape[0]):
        out[row // each] |= matrix[row].astype(np.uint32) << np.uint32(bits * (row % each))
    return out.view(np.int32)


def packed_along(matrix: Array, order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7), bits: int = 4) -> Array:
    """Columns into int32; nibble i of a word is column `order[i]` of its run."""
    each = 32 // bits
    out = np.zeros((matrix.shape[0], matrix.shape[1] // each), np.uint32)
    for word in range(out.shape[1]):
        for index in range(each):
            out[:, word] |= matrix[:, word * each + order[index]].astype(np.uint32) << np.uint32(bits * index)
    return out.view(np.int32)


def gptq_parts(codes: Array, scales: Array, zeros: Array, less: int = 1) -> dict[str, tuple[str, Array]]:
    return {
        "qweight": ("I32", packed_down(codes.T)),
        "qzeros": ("I32", packed_along(zeros.T - less)),
        "scales": ("F16", scales.T),
        "g_idx": ("I32", (np.arange(codes.shape[1]) // GROUP).astype(np.int32)),
    }


def awq_parts(codes: Array, scales: Array, zeros: Array) -> dict[str, tuple[str, Array]]:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        "qweight": ("I32", packed_along(codes.T, order)),
        "qzeros": ("I32", packed_along(zeros.T, order)),
        "scales": ("F16", scales.T),
    }


def packed_parts(codes: Array, scales: Array, bits: int = 4) -> dict[str, tuple[str, Array]]:
    return {
        "weight_packed": ("I32", packed_along(codes, tuple(range(32 // bits)), bits)),
        "weight_scale": ("F16", scales),
        "weight_shape": ("I64", np.array(codes.shape)),
    }


# Formats that are held exactly


@pytest.mark.parametrize(("version", "less"), [("gptq", 1), ("gptq_v2", 0), (None, 1)])
def test_gptq_is_held_exactly_in_both_versions(tmp_path: Path, version: str | None, less: int) -> None:
    codes, scales, zeros = random_codes(0)
    config = GPTQ if version is None else GPTQ | {"checkpoint_format": version}
    weight = read(tmp_path, gptq_parts(codes, scales, zeros, less), config)

    assert isinstance(weight, Int4)
    assert weight.zeros.dtype == np.uint8
    assert weight.scales.shape == (ROWS, COLUMNS // GROUP)
    assert np.array_equal(dequantize(weight), expected(codes, scales, zeros))


def test_gptq_zero_points_may_be_sixteen(tmp_path: Path) -> None:
    codes, scales, zeros = random_codes(0)
    weight = read(tmp_path, gptq_parts(codes, scales, np.full_like(zeros, 16)), GPTQ)
    assert np.array_equal(dequantize(weight), expected(codes, scales, np.full_like(zeros, 16)))


def test_gptq_without_an_order_of_groups_has_none(tmp_path: Path) -> None:
    codes, scales, zeros = random_codes(1)
    parts = gptq_parts(codes, scales, zeros)
    del parts["g_idx"]
    assert np.array_equal(dequantize(read(tmp_path, parts, GPTQ)), expected(codes, scales, zeros))


def test_one_group_may_span_a_row(tmp_path: Path) -> None:
    codes, scales, zeros = random_codes(1)
    parts = gptq_parts(codes, scales[:, :1], zeros[:, :1]) | {"g_idx": ("I32", np.zeros(COLUMNS, np.int32))}
    weight = read(tmp_path, parts, GPTQ | {"group_size": -1})

    assert weight.scales.shape == (ROWS, 1)
    assert np.array_equal(dequantize(weight), expected(codes, scales[:, :1], zeros[:, :1]))


def test_awq_is_held_exactly(tmp_path: Path) -> None:
    codes, scales, zeros = random_codes(2)
    weight = read(tmp_path, awq_parts(codes, scales, zeros), AWQ)

    assert isinstance(weight, Int4)
    assert np.array_equal(dequantize(weight), expected(codes, scales, zeros))


def test_packed_int4_is_held_exactly(tmp_path: Path) -> None:
    codes, scales, zeros = random_codes(3)
    weight = read(tmp_path, packed_parts(codes, scales), compressed("pack-quantized", 4, group_size=GROUP))

    assert isinstance(weight, Int4)
    assert np.array_equal(dequantize(weight), expected(codes, scales, np.full_like(zeros, 8)))


def test_packed_int4_may_have_zero_points(tmp_path: Path) -> None:
    codes, scales, zeros = random_codes(4)
    parts = packed_parts(codes, scales) | {"weight_zero_point": ("I32", packed_down(zeros))}
    weight = read(tmp_path, parts, compressed("pack-quantized", 4, symmetric=False))

    assert np.array_equal(dequantize(weight), expected(codes, scales, zeros))


def test_packed_int8_is_held_exactly(tmp_path: Path) -> None:
    codes, scales, zeros = random_codes(5, high=256)
    weight = read(tmp_path, packed_parts(codes, scales, bits=8), compressed("pack-quantized", 8))

    assert isinstance(weight, Int8)
    assert np.array_equal(dequantize(weight), expected(codes, scales, np.full_like(zeros, 128)))


@pytest.mark.parametrize("shape", [(ROWS, 1), (ROWS, 2), (1,), ()])
def test_int8_is_held_exactly_with_scales_by_row_group_or_matrix(tmp_path: Path, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(6)
    codes = random.integers(-127, 128, (ROWS, COLUMNS)).astype(np.int8)
    scales = random.uniform(0.01, 1, shape).astype(np.float32)
    by_group = np.broadcast_to(
        np.asarray(scales).reshape(shape if len(shape) == 2 else (1, 1)), (ROWS, max(shape[1:] or [1]))
    )
    parts = {"weight": ("I8", codes), "weight_scale": ("F32", scales)}
    weight = read(tmp_path, parts, compressed("int-quantized", 8))

    assert isinstance(weight, Int8)
    assert np.array_equal(dequantize(weight), expected(codes, by_group, np.zeros_like(by_group)))


# FP8


def e4m3(code: int) -> float:
    """One byte by the definition: sign, exponent with bias 7, mantissa."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, (code >> 3) & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def test_every_fp8_byte_has_its_value() -> None:
    np.testing.assert_array_equal(e4m3_values(), np.array([e4m3(code) for code in range(256)], np.float32))
    assert np.nanmax(e4m3_values()) == 448
    assert e4m3_values()[1] == 2.0**-9


def fp8_codes(rows: int = ROWS, columns: int = COLUMNS) -> Array:
    codes = np.random.default_rng(7).integers(0, 255, (rows, columns)).astype(np.uint8)
    return np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8)


@pytest.mark.parametrize("shape", [(), (1,), (ROWS, 1)])
@pytest.mark.parametrize("config", [FP8, compressed("float-quantized", 8)], ids=["fp8", "compressed"])
def test_fp8_with_scales_by_matrix_or_row_is_dense(tmp_path: Path, shape: tuple[int, ...], config: Any) -> None:
    codes = fp8_codes()
    scales = np.random.default_rng(8).uniform(0.01, 1, shape).astype(np.float32)
    weight = read(tmp_path, {"weight": ("F8_E4M3", codes), "weight_scale": ("F32", scales)}, config)
    values = np.array([[e4m3(int(code)) for code in row] for row in codes], np.float32)

    assert isinstance(weight, Dense)
    assert np.array_equal(weight.values, values * np.asarray(scales).reshape(-1, 1))


@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (12, 48), (8, 32), (3, 5)])
def test_fp8_with_scales_by_block_is_dense_also_at_the_edges(tmp_path: Path, rows: int, columns: int) -> None:
    codes = fp8_codes(rows, columns)
    scales = np.random.default_rng(9).uniform(0.01, 1, (-(-rows // 8), -(-columns // 32))).astype(np.float32)
    weight = read(tmp_path, {"weight": ("F8_E4M3", codes), "weight_scale_inv": ("F32", scales)}, FP8_BLOCKS)
    values = np.array(
        [
            [np.float32(e4m3(int(codes[row, column]))) * scales[row // 8, column // 32] for column in range(columns)]
            for row in range(rows)
        ]
    )

    assert np.array_equal(weight.values, values)


# Whole checkpoints

MODEL = TinyModel(num_layers=1)


def checkpoint(folder: Path, kind: str) -> SafetensorsCheckpoint:
    """The tiny model with its layer's matrices quantized, everything else dense."""
    tensors: dict[str, tuple[str, Array]] = {}
    for number, (name, values) in enumerate(MODEL.weights().items()):
        base = name.removesuffix(".weight")
        if values.ndim == 1 or "layers" not in name:
            tensors[name] = ("F32", values)
            continue
        codes = np.random.default_rng(number).integers(0, 16, values.shape)
        scales = np.random.default_rng(number).uniform(0.01, 0.05, (len(codes), codes.shape[1] // GROUP))
        zeros = np.full(scales.shape, 8)
        half = scales.astype(np.float16)
        parts = {"gptq": gptq_parts, "awq": awq_parts}[kind](codes, half, zeros)
        tensors |= {f"{base}.{part}": value for part, value in parts.items()}
        tensors[f"{base}.input_scale"] = ("F32", np.ones(1, np.float32))
    quantization = {"gptq": GPTQ, "awq": AWQ}[kind]
    return SafetensorsCheckpoint(write(folder, tensors, MODEL.config() | {"quantization_config": quantization}))


@pytest.mark.parametrize("kind", ["gptq", "awq"])
@pytest.mark.parametrize("quantize", ["none", "auto", "int4"])
def test_a_quantized_checkpoint_is_packed_as_it_is(tmp_path: Path, kind: str, quantize: Any) -> None:
    source = checkpoint(tmp_path / "checkpoint", kind)
    path = tmp_path / "weights.safetensors"
    write_weights(source, WeightPlan(quantize=quantize, dtype="float32"), path, lambda done, total: None)
    packed = PackedWeights(path)

    assert source.names() == set(MODEL.shapes())
    assert source.was_quantized("model.layers.0.mlp.up_proj.weight")
    assert not source.was_quantized("model.norm.weight")
    for ours, theirs in (("q", "self_attn.q"), ("o", "self_attn.o"), ("up", "mlp.up"), ("down", "mlp.down")):
        stored = source.read(f"model.layers.0.{theirs}_proj.weight")
        held = packed.read(f"layers.0.{ours}")
        assert isinstance(held, Int4)
        assert np.array_equal(dequantize(held), dequantize(stored))


@pytest.mark.parametrize("quantize", ["auto", "int8"])
def test_int8_rows_are_not_rounded_again(tmp_path: Path, quantize: Any) -> None:
    tensors: dict[str, tuple[str, Array]] = {}
    for name, values in MODEL.weights().items():
        if values.ndim == 1 or "layers" not in name:
            tensors[name] = ("F32", values)
            continue
        codes = np.random.default_rng(1).integers(-100, 101, values.shape).astype(np.int8)
        scales = np.full((len(codes), 1), 0.001, np.float32)
        tensors |= {name: ("I8", codes), f"{name}_scale": ("F32", scales)}
    config = MODEL.config() | {"quantization_config": compressed("int-quantized", 8)}
    source = SafetensorsCheckpoint(write(tmp_path / "checkpoint", tensors, config))
    path = tmp_path / "weights.safetensors"
    write_weights(source, WeightPlan(quantize=quantize, dtype="float32"), path, lambda done, total: None)
    held = PackedWeights(path).read("layers.0.up")

    assert isinstance(held, Int8)
    assert np.array_equal(held.codes, tensors["model.layers.0.mlp.up_proj.weight"][1])


# What is refused


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    parts = gptq_parts(*random_codes(0))
    order = np.arange(COLUMNS, dtype=np.int32) // GROUP
    order[[0, -1]] = order[[-1, 0]]
    assert refused(tmp_path, parts | {"g_idx": ("I32", order)}, GPTQ) == (
        f"tensor `{NAME}.weight`: its columns are grouped out of order (`desc_act` or `actorder`), which cannot be "
        "held; use a checkpoint made without it"
    )


BEFORE = "use the model before it was quantized, with --quantize int8 or int4"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"quant_method": "bitsandbytes"},
            "`quantization_config.quant_method` 'bitsandbytes' is not supported; supported: awq, compressed-tensors, "
            f"fp8, gptq. {BEFORE.capitalize()}",
        ),
        (GPTQ | {"bits": 3}, f"`quantization_config.bits` must be 4 to be loaded. Given: 3; {BEFORE}"),
        (AWQ | {"bits": 8}, f"`quantization_config.bits` must be 4 to be loaded. Given: 8; {BEFORE}"),
        (
            GPTQ | {"checkpoint_format": "marlin"},
            "`quantization_config.checkpoint_format` must be gptq or gptq_v2 to be loaded. Given: 'marlin'; " + BEFORE,
        ),
        (
            AWQ | {"version": "gemv"},
            f"`quantization_config.version` must be gemm to be loaded. Given: 'gemv'; {BEFORE}",
        ),
        (
            {"quant_method": "fp8", "fmt": "e5m2"},
            "`quantization_config.fmt` must be e4m3 or float8_e4m3fn to be loaded. Given: 'e5m2'; " + BEFORE,
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [128]},
            "`quantization_config.weight_block_size` must be two whole numbers above 0 to be loaded. Given: [128]; "
            + BEFORE,
        ),
        (
            compressed("nvfp4-pack-quantized", 4),
            "`quantization_config.format` 'nvfp4-pack-quantized' with weights of ['4'] bits is not supported; "
            "supported: pack-quantized with 4 or 8 bits, int-quantized and float-quantized with 8",
        ),
        (
            compressed("pack-quantized", 3),
            "`quantization_config.format` 'pack-quantized' with weights of ['3'] bits is not supported; "
            "supported: pack-quantized with 4 or 8 bits, int-quantized and float-quantized with 8",
        ),
        (
            compressed("int-quantized", 8) | {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "`quantization_config.sparsity_config.format` must be dense to be loaded. Given: 'sparse-24-bitmask'; "
            + BEFORE,
        ),
        ("gptq", "`quantization_config` must be an object. Given: 'gptq'"),
    ],
)
def test_what_cannot_be_held_is_refused_by_its_config(config: object, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        format_of({"quantization_config": config})
    assert str(caught.value) == message


DAMAGED = (
    f"tensor `{NAME}.weight`: its quantized parts do not fit each other or have other types than their format says; "
    "the checkpoint is damaged"
)


def _cut(part: str) -> Callable[[dict[str, tuple[str, Array]]], None]:
    def cut(parts: dict[str, tuple[str, Array]]) -> None:
        code, values = parts[part]
        parts[part] = code, values[:, :-1]

    return cut


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
@pytest.mark.parametrize(("make", "config"), [(gptq_parts, GPTQ), (awq_parts, AWQ)], ids=["gptq", "awq"])
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, part: str, make: Any, config: Any) -> None:
    parts = make(*random_codes(0))
    _cut(part)(parts)
    assert refused(tmp_path, parts, config) == DAMAGED


def test_parts_of_another_type_are_refused(tmp_path: Path) -> None:
    parts = awq_parts(*random_codes(0))
    assert refused(tmp_path, parts | {"qweight": ("F32", parts["qweight"][1].astype(np.float32))}, AWQ) == DAMAGED


def test_scales_that_fit_no_block_are_refused(tmp_path: Path) -> None:
    parts = {"weight": ("F8_E4M3", fp8_codes()), "weight_scale_inv": ("F32", np.ones((2, 3), np.float32))}
    assert refused(tmp_path, parts, FP8_BLOCKS) == DAMAGED


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_a_part_that_is_missing_is_named(tmp_path: Path, part: str) -> None:
    parts = awq_parts(*random_codes(0))
    del parts[part]
    assert refused(tmp_path, parts, AWQ) == f"the checkpoint lacks `{NAME}.{part}`, a part of a quantized matrix"


def test_int8_with_zero_points_is_refused(tmp_path: Path) -> None:
    parts = {
        "weight": ("I8", np.ones((2, 4), np.int8)),
        "weight_scale": ("F32", np.ones((2, 1), np.float32)),
        "weight_zero_point": ("I8", np.ones((2, 1), np.int8)),
    }
    assert refused(tmp_path, parts, compressed("int-quantized", 8)) == (
        "`quantization_config.config_groups` must be symmetric to be loaded. Given: '8 bits with zero points'; "
        + BEFORE
    )
