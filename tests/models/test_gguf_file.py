"""GGUF files as checkpoints: metadata as a config, tensors under Hugging Face names and in their row order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.models import spec_of
from ranvier.models.gguf_file import GgufCheckpoint
from ranvier.models.rope import FactorScaling, LinearScaling, RopeSpec
from ranvier.models.weights import Array, Dense, Int4, Weight, dequantize
from tiny_checkpoints import CHAT_TEMPLATE, TOKENS, TinyModel, gguf_weights, llama3_factors, quantized, write_gguf

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q6_K")
WIDE = TinyModel(hidden_size=256, intermediate_size=512, head_dim=64, num_layers=1, is_tied=False, vocab_size=290)
SMALL = TinyModel(num_layers=1, intermediate_size=32)


def reordered(rows: Array, heads: int) -> Array:
    """From ggml's rotary order to halves: of each head the even rows, then the odd ones."""
    per_head = rows.reshape(heads, -1, *rows.shape[1:])
    halves: Array = np.concatenate([per_head[:, 0::2], per_head[:, 1::2]], axis=1).reshape(rows.shape)
    return halves


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {kind: write_gguf(folder / f"{kind}.gguf", WIDE, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_what_the_library_dequantizes_with_rotary_rows_as_halves(
    files: dict[str, Path], kind: str
) -> None:
    checkpoint = GgufCheckpoint(files[kind])
    for tensor in gguf.GGUFReader(files[kind]).tensors:
        name = {"blk.0.attn_q.weight": "q", "blk.0.attn_k.weight": "k"}.get(tensor.name, "")
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(tensor.shape[::-1]))
        if name:
            wanted = reordered(wanted, {"q": 4, "k": 2}[name])
        held = dequantize(checkpoint.read(hf_name(tensor.name)))
        # Q4_1 keeps its minimum as a zero point in steps, which rounds once more; everything else is exact.
        atol = 1e-6 * float(np.abs(wanted).max()) if kind == "Q4_1" else 0.0
        np.testing.assert_allclose(held, wanted, rtol=0, atol=atol, strict=True)


def hf_name(name: str) -> str:
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
        "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
        "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
        "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
    }
    block, _, part = name.removesuffix(".weight").rpartition("_")
    module = "self_attn" if "attn" in block else "mlp"
    return names.get(name, f"model.layers.0.{module}.{part}_proj.weight")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_in_the_order_of_the_checkpoint_that_was_converted(files: dict[str, Path], kind: str) -> None:
    checkpoint, wanted = GgufCheckpoint(files[kind]), gguf_weights(WIDE, kind)

    assert checkpoint.names() == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(dequantize(checkpoint.read(name)), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "form", "groups", "zeros", "was_quantized"),
    [
        ("F32", "Dense", 0, None, False),
        ("F16", "Dense", 0, None, False),
        ("BF16", "Dense", 0, None, False),
        ("Q4_0", "Int4", 8, np.uint8, True),
        ("Q4_1", "Int4", 8, np.float32, True),
        ("Q8_0", "Int8", 8, None, True),
        ("Q5_0", "Dense", 0, None, True),
        ("Q6_K", "Dense", 0, None, True),
    ],
)
def test_blocks_that_can_be_kept_are_kept_as_codes(
    files: dict[str, Path], kind: str, form: str, groups: int, zeros: type | None, was_quantized: bool
) -> None:
    checkpoint, name = GgufCheckpoint(files[kind]), "model.layers.0.self_attn.q_proj.weight"
    weight: Any = checkpoint.read(name)

    assert type(weight).__name__ == form
    assert weight.shape == (256, 256)
    assert groups == (0 if form == "Dense" else weight.scales.shape[1])
    assert zeros == (weight.zeros.dtype if form == "Int4" else None)
    assert checkpoint.was_quantized(name) == was_quantized
    assert not checkpoint.was_quantized("model.norm.weight")


def with_tensor(folder: Path, kind: str, data: Array) -> Weight:
    """A file whose `output.weight` holds exactly these bytes, read back."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("embedding_length", "feed_forward_length", "block_count", "context_length"):
        writer.add_uint32(f"llama.{key}", 64)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for name in ("token_embd.weight", "blk.0.ffn_gate.weight"):
        writer.add_tensor(name, np.ones((2, 64), np.float32))
    writer.add_tensor("output.weight", data, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufCheckpoint(path).read("lm_head.weight")


def block(*halves: float, codes: bytes) -> bytes:
    return np.array(halves, np.float16).tobytes() + codes


def test_a_q4_1_block_of_equal_values_has_scale_zero_and_keeps_its_value(tmp_path: Path) -> None:
    """Four kinds of blocks: minimum -2.5 and no scale, all zero, minimum 3 and no scale, and an ordinary one."""
    noise = bytes(range(16))
    rows = np.frombuffer(
        block(0, -2.5, codes=noise)
        + block(0, 0, codes=noise)
        + block(0, 3, codes=noise)
        + block(0.5, -1, codes=bytes([0x10] * 16)),
        np.uint8,
    ).reshape(2, 40)
    weight = with_tensor(tmp_path, "Q4_1", rows)
    values = dequantize(weight)

    assert np.array_equal(values, gguf.quants.dequantize(rows, GGMLQuantizationType.Q4_1))
    assert values[0].tolist() == [-2.5] * 32 + [0.0] * 32
    assert values[1].tolist() == [3.0] * 32 + [-1.0] * 16 + [-0.5] * 16


def test_a_q4_0_block_holds_its_first_half_in_the_low_nibbles(tmp_path: Path) -> None:
    """Byte 0x1F: value 0 has code 15, value 16 has code 1; with scale 2 that is 14 and -14."""
    rows = np.frombuffer(block(2, codes=bytes([0x1F] * 16)), np.uint8).reshape(1, 18)
    weight = with_tensor(tmp_path, "Q4_0", rows)

    assert isinstance(weight, Int4)
    assert weight.zeros.tolist() == [[8]]
    assert dequantize(weight).tolist() == [[14.0] * 16 + [-14.0] * 16]


def test_a_q8_0_block_holds_signed_bytes(tmp_path: Path) -> None:
    rows = np.frombuffer(block(0.5, codes=bytes([0x80, 0x7F, 0, 1] * 8)), np.uint8).reshape(1, 34)

    assert dequantize(with_tensor(tmp_path, "Q8_0", rows))[0, :4].tolist() == [-64, 63.5, 0, 0.5]


@settings(deadline=None)
@given(data=st.binary(min_size=2 * 2 * 20, max_size=2 * 2 * 20))
def test_any_q4_1_block_of_ordinary_size_keeps_its_values(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = np.frombuffer(data, np.uint8).reshape(2, 2, 20).copy()
    halves = rows[..., :4].view(np.float16)
    # A scale and minimum between 2**-8 and 2**7: those that weights have.
    rows[..., :4] = ((halves.view(np.uint16) & 0xBFFF | 0x1C00) & 0xDFFF).view(np.uint8)
    rows = rows.reshape(2, 40)
    wanted = gguf.quants.dequantize(rows, GGMLQuantizationType.Q4_1)
    held = dequantize(with_tensor(tmp_path_factory.mktemp("block"), "Q4_1", rows))

    np.testing.assert_allclose(held, wanted, rtol=0, atol=1e-6 * float(np.abs(wanted).max()))


def test_metadata_describes_the_same_model_as_the_config(tmp_path: Path) -> None:
    for model in (SMALL, WIDE, TinyModel(rope="linear"), TinyModel(num_heads=8, num_kv_heads=8, head_dim=24)):
        checkpoint = GgufCheckpoint(write_gguf(tmp_path / "model.gguf", model))
        assert spec_of(checkpoint.config) == spec_of(model.config())


def test_sizes_that_follow_from_others_may_be_left_out(tmp_path: Path) -> None:
    optional = ("attention.head_count_kv", "attention.key_length", "rope.dimension_count", "rope.freq_base")
    model = TinyModel(num_kv_heads=4)
    absent = {f"llama.{key}": None for key in optional}

    assert spec_of(GgufCheckpoint(write_gguf(tmp_path / "m.gguf", model, metadata=absent)).config) == spec_of(
        model.config()
    )


def test_numbers_are_those_that_the_author_wrote(tmp_path: Path) -> None:
    """float32 holds 1e-5 as 9.99999974737875e-06."""
    config = GgufCheckpoint(write_gguf(tmp_path / "m.gguf", SMALL, metadata={"llama.rope.freq_base": 1.3e6})).config

    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-05, 1300000.0)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_file_without_an_output_matrix_has_a_tied_head(tmp_path: Path, is_tied: bool) -> None:
    checkpoint = GgufCheckpoint(write_gguf(tmp_path / "m.gguf", TinyModel(is_tied=is_tied)))

    assert checkpoint.config["tie_word_embeddings"] == is_tied
    assert ("lm_head.weight" in checkpoint.names()) == (not is_tied)


def test_metadata_is_handed_out_as_plain_values(tmp_path: Path) -> None:
    metadata = GgufCheckpoint(write_gguf(tmp_path / "m.gguf", SMALL)).metadata

    assert metadata["tokenizer.ggml.tokens"] == list(TOKENS)
    assert metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert metadata["tokenizer.ggml.eos_token_id"] == 1
    assert metadata["tokenizer.ggml.add_bos_token"] is False


def test_metadata_is_what_the_package_reads_in_either_order_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keys = {"a.texts": ["", "ä", "x" * 300], "a.bytes": [1, 2], "a.numbers": [0.5, -2.0], "a.flags": [True, False]}
    for endian in gguf.GGUFEndian:
        writer = gguf.GGUFWriter(path, "llama", endianess=endian)
        for key in ("embedding_length", "feed_forward_length", "block_count", "context_length"):
            writer.add_uint32(f"llama.{key}", 64)
        writer.add_uint32("llama.attention.head_count", 4)
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        for key, value in keys.items():
            writer.add_array(key, value)
        writer.add_tensor("token_embd.weight", np.ones((2, 64), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        metadata = GgufCheckpoint(path).metadata

        assert metadata == {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
        assert {key: metadata[key] for key in keys} == keys


def rope_of(config: Mapping[str, object]) -> RopeSpec:
    rope = spec_of(config).layers[0].rope
    assert rope is not None
    return rope


def test_llama3_scaling_comes_as_factors(tmp_path: Path) -> None:
    model = TinyModel(rope="llama3")
    checkpoint = GgufCheckpoint(write_gguf(tmp_path / "m.gguf", model))
    rope = rope_of(checkpoint.config)

    assert rope.scaling == FactorScaling(factors=tuple(float(value) for value in llama3_factors(model)))
    assert rope.inverse_frequencies(256) == pytest.approx(rope_of(model.config()).inverse_frequencies(256), rel=1e-6)
    assert "rope_freqs.weight" not in checkpoint.names()


SCALING_TYPE, FACTOR, OLD_FACTOR = "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear"


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({}, None),
        ({SCALING_TYPE: "none"}, None),
        ({SCALING_TYPE: "none", FACTOR: 4.0}, None),
        ({SCALING_TYPE: "linear", FACTOR: 4.0}, 4.0),
        ({SCALING_TYPE: "linear"}, None),
        ({FACTOR: 4.0}, 4.0),
        ({OLD_FACTOR: 4.0}, 4.0),
    ],
)
def test_linear_scaling_is_read_as_llama_cpp_reads_it(
    tmp_path: Path, keys: dict[str, Any], factor: float | None
) -> None:
    """llama.cpp, `llama_model::load_hparams`: the type is linear unless said, the old key stands in for the factor."""
    rope = rope_of(GgufCheckpoint(write_gguf(tmp_path / "m.gguf", SMALL, metadata=keys)).config)

    assert rope.scaling == (None if factor is None else LinearScaling(factor=factor))


def test_factors_and_linear_scaling_multiply(tmp_path: Path) -> None:
    model = TinyModel(rope="llama3")
    keys = {SCALING_TYPE: "linear", FACTOR: 2.0}
    rope = rope_of(GgufCheckpoint(write_gguf(tmp_path / "m.gguf", model, metadata=keys)).config)

    assert rope.scaling == FactorScaling(factors=tuple(2 * float(value) for value in llama3_factors(model)))


def test_vectors_in_blocks_are_dequantized(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    weight = with_tensor(tmp_path, "Q8_0", quantized(values, "Q8_0"))

    assert isinstance(weight, Dense)
    assert dequantize(weight) == pytest.approx(values, abs=0.005)
