"""Checkpoint directories: which files are read, how values arrive, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ranvier.errors import ModelError
from ranvier.models import SafetensorsCheckpoint, read_json
from ranvier.models.weights import Dense, dequantize
from tiny_checkpoints import TinyModel, write_checkpoint, write_safetensors


def refused(directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        SafetensorsCheckpoint(directory)
    return str(caught.value)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a config and no weights."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("num_shards", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_arrives_exactly(tmp_path: Path, num_shards: int, dtype: str) -> None:
    model = TinyModel(dtype=dtype, num_shards=num_shards, is_tied=False)  # type: ignore[arg-type]  # parametrized
    checkpoint = SafetensorsCheckpoint(write_checkpoint(tmp_path, model))
    weights = model.weights()

    assert checkpoint.config == model.config()
    assert checkpoint.names() == set(weights)
    for name, values in weights.items():
        held = checkpoint.read(name)
        assert isinstance(held, Dense)
        # float16 is widened, for there are no float16 weights in an artifact; bfloat16 stays as it is.
        assert held.values.dtype == (np.uint16 if dtype == "bfloat16" else np.float32)
        assert np.array_equal(dequantize(held), values)
        assert not checkpoint.was_quantized(name)


def test_an_index_wins_over_other_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyModel(num_shards=2))
    write_safetensors(tmp_path / "model.safetensors", {"other": np.ones(1, np.float32)})
    write_safetensors(tmp_path / "consolidated.safetensors", {"another": np.ones(1, np.float32)})

    assert SafetensorsCheckpoint(tmp_path).names() == set(TinyModel().shapes())


def test_model_safetensors_wins_over_other_names(directory: Path) -> None:
    write_safetensors(directory / "model.safetensors", {"a": np.ones(1, np.float32)})
    write_safetensors(directory / "consolidated.safetensors", {"b": np.ones(1, np.float32)})

    assert SafetensorsCheckpoint(directory).names() == {"a"}


def test_files_of_other_names_are_all_read(directory: Path) -> None:
    write_safetensors(directory / "x.safetensors", {"a": np.ones(1, np.float32)})
    write_safetensors(directory / "y.safetensors", {"b": np.ones(1, np.float32)})

    assert SafetensorsCheckpoint(directory).names() == {"a", "b"}


def test_safetensors_win_over_pickled_weights(directory: Path) -> None:
    write_safetensors(directory / "model.safetensors", {"a": np.ones(1, np.float32)})
    (directory / "pytorch_model.bin").write_bytes(b"")

    assert SafetensorsCheckpoint(directory).names() == {"a"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pt"])
def test_pickled_weights_are_refused(directory: Path, name: str) -> None:
    (directory / name).write_bytes(b"")
    assert refused(directory) == (
        f"{directory}: holds pickled weights (.bin, .pt), which can run code when loaded; convert them to safetensors"
    )


def test_a_directory_without_weights_is_refused(directory: Path) -> None:
    assert refused(directory) == (
        f"{directory}: holds no weights; `model.safetensors` (or its index and parts) is needed"
    )


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyModel(num_shards=3))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()

    assert refused(tmp_path) == f"cannot read {tmp_path}/model-00002-of-00003.safetensors: No such file or directory"


def test_a_part_that_was_cut_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TinyModel(num_shards=2))
    path = tmp_path / "model-00001-of-00002.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])

    assert refused(tmp_path) == f"{path.name}: cut short: {len(data) - 1} bytes of {len(data)}; download the file again"


@pytest.mark.parametrize("weight_map", [None, [], "model.safetensors"])
def test_an_index_without_a_map_is_refused(directory: Path, weight_map: object) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert refused(directory) == "model.safetensors.index.json: `weight_map` must be an object"


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_cannot_point_out_of_its_directory(directory: Path, file: str) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    assert refused(directory) == (
        f"model.safetensors.index.json: `weight_map` names {file!r}; a file beside the index is needed"
    )


@pytest.mark.parametrize(("code", "held"), [("I8", "int8"), ("U8", "uint8")])
def test_integer_tensors_are_refused_when_read(directory: Path, code: str, held: str) -> None:
    header = json.dumps({"q": {"dtype": code, "shape": [2], "data_offsets": [0, 2]}}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(ModelError) as caught:
        SafetensorsCheckpoint(directory).read("q")
    assert str(caught.value) == (
        f"tensor `q` holds {held}, and `quantization_config` in `config.json` does not say of it how it was quantized"
    )


def test_a_json_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [1, null, "\u00e9"]}', encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"a": [1, None, "\u00e9"]}


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"{tmp_path}: `config.json` is missing"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": }', "not valid JSON: Expecting value: line 1 column 7 (char 6)"),
        (b"\xff", "not valid JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[1]", "a JSON object is needed"),
        (b"null", "a JSON object is needed"),
    ],
)
def test_a_config_that_is_not_a_json_object_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    assert refused(tmp_path) == f"{tmp_path}/config.json: {message}"


def test_json_nested_beyond_reason_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"[" * 200_000)
    assert refused(tmp_path) == f"{tmp_path}/config.json: not valid JSON: nested too deeply"


def test_a_directory_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert refused(tmp_path) == f"cannot read {tmp_path}/config.json: Is a directory"
