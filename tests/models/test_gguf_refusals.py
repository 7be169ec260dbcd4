"""GGUF files that cannot be served: one message each, that says what is wrong with the file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from ranvier.errors import ModelError
from ranvier.models import WeightPlan, spec_of, write_weights
from ranvier.models.gguf_architectures import ARCHITECTURES
from ranvier.models.gguf_file import GgufCheckpoint
from tiny_checkpoints import TinyModel, write_gguf

SMALL = TinyModel(num_layers=1, hidden_size=32, intermediate_size=32, head_dim=8)


def pack(path: Path, folder: Path) -> None:
    """Everything that an export reads of a file."""
    checkpoint = GgufCheckpoint(path)
    spec_of(checkpoint.config)
    _ = checkpoint.metadata
    plan = WeightPlan(quantize="none", dtype="float32")
    write_weights(checkpoint, plan, folder / "weights.safetensors", lambda done, total: None)


def refused(folder: Path, model: TinyModel = SMALL, **arguments: Any) -> str:
    with pytest.raises(ModelError) as caught:
        pack(write_gguf(folder / "model.gguf", model, **arguments), folder)
    return str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("whole") / "model.gguf", SMALL, "Q8_0").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        GgufCheckpoint(tmp_path / "none.gguf")
    assert str(caught.value) == f"cannot read {tmp_path}/none.gguf: no such file"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot mmap an empty file"),
        (b"GG", "a length points beyond the end of the file"),
        (b"PK\x03\x04" + bytes(100), "GGUF magic invalid"),
        (b"GGUF\x63\x00\x00\x00" + bytes(100), "Sorry, file appears to be version 99 which we cannot handle"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        GgufCheckpoint(path)
    message = rf"model\.gguf: not a GGUF file, or cut short \({reason}\); download it again"
    assert re.fullmatch(message, str(caught.value), re.DOTALL)


@settings(deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_file_cut_anywhere_is_refused(folder: Path, whole: bytes, share: float) -> None:
    path = folder / "cut.gguf"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"^cut\.gguf: (not a GGUF file, or cut short|`llama\.|architecture|tensor)"):
        pack(path, folder)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), byte=st.integers(0, 255))
def test_a_changed_byte_gives_a_model_or_a_reason(folder: Path, whole: bytes, data: st.DataObject, byte: int) -> None:
    position = data.draw(st.integers(0, 12_000))
    path = folder / "changed.gguf"
    path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    try:
        pack(path, folder)
    except ModelError as error:
        assert str(error).startswith(("changed.gguf: ", "config.json: ", "tensor `", "the checkpoint "))


OPEN = """
import sys
from pathlib import Path
from ranvier.errors import ModelError
from ranvier.models.gguf_architectures import ARCHITECTURES
from ranvier.models.gguf_file import GgufCheckpoint
try:
    GgufCheckpoint(Path(sys.argv[1]))
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("key", "offset", "byte", "reason"),
    [
        ("general.architecture", 0, 9, "an array of .* entries"),
        ("tokenizer.ggml.pre", 0, 9, "an array of .* entries"),
        ("tokenizer.ggml.token_type", 4 + 4 + 7, 1, "an array of .* entries"),
        ("tokenizer.ggml.token_type", 4 + 4 + 2, 1, "a length points beyond the end of the file"),
        ("tokenizer.chat_template", 4 + 7, 1, "a length points beyond the end of the file"),
    ],
)
def test_a_damaged_length_does_not_keep_the_reader_busy(
    tmp_path: Path, key: str, offset: int, byte: int, reason: str
) -> None:
    """The library takes what lies beyond the end as empty, and went through 2**56 entries of it.

    A key is followed by its type (4 bytes, 9 is an array), an array by the type of its entries and their number.
    """
    path = write_gguf(tmp_path / "model.gguf", SMALL)
    data = bytearray(path.read_bytes())
    name = len(key).to_bytes(8, "little") + key.encode()
    data[data.index(name) + len(name) + offset] = byte
    path.write_bytes(data)
    # In a process with a time limit: if this goes wrong again, the test is to fail and not to hang.
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, timeout=20, check=False
    )

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"model\.gguf: not a GGUF file, or cut short \({reason}\); download it again\n", done.stdout)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, metadata={"general.architecture": "mamba"}) == (
        f"model.gguf: architecture 'mamba' is not supported; supported: {', '.join(ARCHITECTURES)}"
    )


def test_a_file_without_an_architecture_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, metadata={"general.architecture": None}) == (
        f"model.gguf: architecture None is not supported; supported: {', '.join(ARCHITECTURES)}"
    )


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, metadata={"llama.expert_count": 8}) == (
        "model.gguf: experts (mixture of experts) are not supported; use a dense model"
    )


def test_a_missing_embedding_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, without=("token_embd.weight",)) == (
        "model.gguf: tensor `token_embd.weight` is missing; the file is incomplete"
    )


def test_missing_tensors_are_listed_by_name(tmp_path: Path) -> None:
    assert refused(tmp_path, without=("blk.0.ffn_gate.weight", "blk.0.attn_q.weight")) == (
        "the checkpoint lacks 2 tensors: model.layers.0.mlp.gate_proj.weight, model.layers.0.self_attn.q_proj.weight"
    )


@pytest.mark.parametrize(
    "key",
    [
        "embedding_length",
        "feed_forward_length",
        "block_count",
        "attention.head_count",
        "context_length",
    ],
)
@pytest.mark.parametrize(("value", "shown"), [(None, "None"), ("many", "'many'"), (1.5, "1.5"), (True, "True")])
def test_sizes_must_be_whole_numbers(tmp_path: Path, key: str, value: object, shown: str) -> None:
    assert refused(tmp_path, metadata={f"llama.{key}": value}) == (
        f"model.gguf: `llama.{key}` must be a whole number. Given: {shown}"
    )


def test_sizes_for_each_layer_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, metadata={"llama.attention.head_count_kv": [2, 4]}) == (
        "model.gguf: `llama.attention.head_count_kv` must be a whole number. Given: [2, 4]"
    )


@pytest.mark.parametrize(("value", "shown"), [(None, "None"), ("small", "'small'"), (True, "True")])
def test_the_norm_s_epsilon_must_be_a_number(tmp_path: Path, value: object, shown: str) -> None:
    assert refused(tmp_path, metadata={"llama.attention.layer_norm_rms_epsilon": value}) == (
        f"model.gguf: `llama.attention.layer_norm_rms_epsilon` must be a number. Given: {shown}"
    )


def test_no_heads_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, metadata={"llama.attention.head_count": 0}) == (
        "config.json: `num_attention_heads` must be a whole number above 0. Given: 0"
    )


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_other_rope_scaling_is_refused(tmp_path: Path, kind: str) -> None:
    assert refused(tmp_path, metadata={"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0}) == (
        f"model.gguf: `llama.rope.scaling.type` {kind!r} is not supported; supported: none, linear, yarn"
    )


def test_rotating_part_of_a_head_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, metadata={"llama.rope.dimension_count": 4}) == (
        "model.gguf: `llama.rope.dimension_count` is 4 and heads have 8 dimensions; rotating a part is not supported"
    )


def test_another_number_of_factors_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL)
    add_tensor(path, "rope_freqs.weight", np.ones(3, np.float32), "F32")
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == (
        "config.json: `rope_scaling.factors` must be a list of 4 numbers above 0. Given: [1.0, 1.0, 1.0]"
    )


def test_tensors_that_nobody_asks_for_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL)
    add_tensor(path, "blk.0.attn_q.bias", np.ones(32, np.float32), "F32")
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == (
        "the checkpoint has 1 tensors that its config does not call for: model.layers.0.self_attn.q_proj.bias"
    )


def test_rows_that_the_heads_cannot_share_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL, without=("blk.0.attn_q.weight",))
    add_tensor(path, "blk.0.attn_q.weight", np.ones((30, 32), np.float32), "F32")
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == (
        "model.gguf: tensor `model.layers.0.self_attn.q_proj.weight` has 30 rows, which 4 heads cannot share; "
        "the file is damaged"
    )


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((40, 32), "[40, 32]"), ((32, 64), "[32, 64]"), ((1024,), "[1024]"), ((2, 16, 32), "[2, 16, 32]")],
)
def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...], shown: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL, without=("blk.0.attn_output.weight",))
    add_tensor(path, "blk.0.attn_output.weight", np.ones(shape, np.float32), "F32")
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == (
        f"tensor `model.layers.0.self_attn.o_proj.weight` has shape {shown}; its config calls for [32, 32]"
    )


def test_a_table_that_is_a_vector_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL, without=("token_embd.weight",))
    add_tensor(path, "token_embd.weight", np.ones(32, np.float32), "F32")
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == "model.gguf: tensor `token_embd.weight` has shape [32]; a matrix is needed"


def test_a_tensor_without_rows_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL, "Q8_0")
    # The sizes of `blk.0.attn_output.weight` stand behind its name and the number of dimensions.
    whole, name = path.read_bytes(), b"blk.0.attn_output.weight\x02\0\0\0" + (32).to_bytes(8, "little")
    path.write_bytes(whole.replace(name + (32).to_bytes(8, "little"), name + bytes(8)))
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == (
        "model.gguf: tensor `model.layers.0.self_attn.o_proj.weight` is empty; the file is damaged"
    )


def test_a_type_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL, without=("output_norm.weight",))
    add_tensor(path, "output_norm.weight", np.ones(32, np.float64), "F64")
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == (
        "model.gguf: tensor `model.norm.weight` has type F64, which cannot be read; "
        "use a file in Q4_0, Q4_1, Q8_0, F16, BF16, F32 or K-quants"
    )


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", SMALL)
    path.write_bytes(path.read_bytes().replace(b"assistant:", b"assistant\xff"))
    with pytest.raises(ModelError) as caught:
        pack(path, tmp_path)
    assert str(caught.value) == "model.gguf: `tokenizer.chat_template` is damaged; download the file again"


def add_tensor(path: Path, name: str, values: np.ndarray[Any, Any], kind: str) -> None:
    """Write the file again with one more tensor."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_suffix(".new"), "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            value_type, element = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), value_type, element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)
