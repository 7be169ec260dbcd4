"""safetensors files: what is written is read, by us and by the `safetensors` library, and damage is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ranvier.errors import ModelError
from ranvier.models.tensor_file import TensorFile, TensorWriter, aligned, total_bytes
from ranvier.models.weights import Array

OUR_NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8", "uint8": "U8"}
_counter = itertools.count()

arrays = st.sampled_from(sorted(OUR_NAMES)).flatmap(
    lambda dtype: npst.arrays(np.dtype(dtype), npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)
# The format keeps one name for itself: no tensor can have it.
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789._", min_size=1, max_size=40).filter("__metadata__".__ne__)
tensors = st.dictionaries(names, arrays, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensors")


def fresh(folder: Path) -> Path:
    """A new name for each example: arrays of the one before may still look into its file."""
    return folder / f"{next(_counter)}.safetensors"


def write(path: Path, values: dict[str, Array]) -> Path:
    with TensorWriter(path, len(values)) as writer:
        for name, array in values.items():
            writer.add(name, array)
    return path


def file_with(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with any header, JSON or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@settings(deadline=None)
@given(values=tensors)
def test_what_is_written_is_read_back_bit_for_bit(folder: Path, values: dict[str, Array]) -> None:
    file = TensorFile(write(fresh(folder), values))

    assert file.names == tuple(values)
    for name, array in values.items():
        read = file.read(name)
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert file.dtype_name(name) == OUR_NAMES[array.dtype.name]


@settings(deadline=None)
@given(values=tensors)
def test_the_library_reads_what_is_written(folder: Path, values: dict[str, Array]) -> None:
    deserialize: Any = safetensors.deserialize
    found = dict(deserialize(write(fresh(folder), values).read_bytes()))

    assert {name: (each["dtype"], tuple(each["shape"]), bytes(each["data"])) for name, each in found.items()} == {
        name: (OUR_NAMES[array.dtype.name], array.shape, array.tobytes()) for name, array in values.items()
    }


@settings(deadline=None)
@given(values=tensors)
def test_what_the_library_writes_is_read(folder: Path, values: dict[str, Array]) -> None:
    # Its NumPy door has no bfloat16; `test_checkpoint.py` reads files with bfloat16.
    values = {name: array for name, array in values.items() if array.dtype != np.uint16}
    path = fresh(folder)
    safetensors.numpy.save_file(values, path, {"format": "pt"})
    file = TensorFile(path)

    assert set(file.names) == set(values)
    for name, array in values.items():
        read = file.read(name)
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_an_array_in_any_memory_order_is_written_by_rows(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    file = TensorFile(write(tmp_path / "file", {"columns": rows.T, "every_second": rows[:, ::2]}))

    assert file.read("columns").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert file.read("every_second").tolist() == [[0, 2], [3, 5]]


def test_arrays_are_read_only_views_of_one_mapping_that_they_keep_alive(tmp_path: Path) -> None:
    path = write(tmp_path / "file", {"a": np.arange(4, dtype=np.float32)})
    file = TensorFile(path)
    first, second = file.read("a"), file.read("a")
    del file
    path.unlink()

    assert np.shares_memory(first, second)
    assert not first.flags.writeable
    assert first.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 300])
def test_data_starts_on_a_64_byte_border_whatever_the_number_of_tensors(tmp_path: Path, count: int) -> None:
    values: dict[str, Array] = {f"layers.{n}.attn_norm.scales": np.ones(16, np.float32) for n in range(count)}
    path = write(tmp_path / "file", values)

    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 64 == 0
    assert all(TensorFile(path).read(name).ctypes.data % 64 == 0 for name in values)


def test_a_writer_that_fails_leaves_no_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt), TensorWriter(path, 2) as writer:
        writer.add("a", np.ones(10, np.float32))
        raise KeyboardInterrupt

    with pytest.raises(ModelError, match=r"^file: not a safetensors file, or cut short \(\d+ bytes\)"):
        TensorFile(path)


def test_more_header_than_the_room_left_for_it_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="room left for the header"):
        write(tmp_path / "file", {"x" * 400: np.ones(1, np.float32)})


def test_a_file_cut_anywhere_is_refused_with_its_size(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", {"a": np.arange(6, dtype=np.float32), "b": np.ones(3, np.int8)}).read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for size in range(len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError) as caught:
            TensorFile(path)
        if size < start:
            wanted = f"cut: not a safetensors file, or cut short ({size} bytes); download it again"
        else:
            wanted = f"cut: cut short: {size} bytes of {len(whole)}; download the file again"
        assert str(caught.value) == wanted


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        TensorFile(tmp_path / "none.safetensors")
    assert str(caught.value) == f"cannot read {tmp_path}/none.safetensors: No such file or directory"


@pytest.mark.parametrize("header", [b"\xff\xfe", b"{", b"[]", b'"x"', b"[" * 100_000])
def test_a_header_that_is_not_a_json_object_is_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        TensorFile(file_with(tmp_path / "bad", header))
    assert str(caught.value) == "bad: the safetensors header is not a JSON object; download the file again"


@pytest.mark.parametrize(
    "entry",
    [
        1,
        {},
        {"dtype": "F32", "shape": [1]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 8]},
        {"dtype": "BF16", "shape": [2**62, 4], "data_offsets": [0, 8]},
    ],
)
def test_an_entry_that_contradicts_itself_is_refused_by_name(tmp_path: Path, entry: object) -> None:
    with pytest.raises(ModelError) as caught:
        TensorFile(file_with(tmp_path / "bad", {"a.weight": entry}, bytes(8)))
    assert str(caught.value) == "bad: the header's entry of tensor `a.weight` is damaged; download the file again"


def test_a_dtype_that_cannot_be_held_is_refused_when_it_is_read(tmp_path: Path) -> None:
    entries = {
        "good": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "fp8": {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [4, 8]},
    }
    file = TensorFile(file_with(tmp_path / "mixed", entries, bytes(8)))

    assert file.read("good").tolist() == [0]
    with pytest.raises(ModelError) as caught:
        file.read("fp8")
    assert str(caught.value) == (
        "mixed: tensor `fp8` has dtype F8_E5M2, which is not supported; use F32, F16, BF16, I8, U8, I32, I64, F8_E4M3"
    )


@settings(deadline=None)
@given(offset=st.integers(0, 130), count=st.integers(1, 20))
def test_aligned_memory_is_handed_on_and_other_memory_copied_to_a_border(offset: int, count: int) -> None:
    room = np.zeros(512, np.uint8)
    base = -room.ctypes.data % 64
    values = room[base + offset : base + offset + 4 * count].view(np.float32)
    values[...] = np.arange(count)
    result = aligned(values)

    assert result.ctypes.data % 64 == 0
    assert result.tolist() == list(range(count))
    assert (result is values) == (offset % 64 == 0)


def test_alignment_makes_strided_arrays_contiguous() -> None:
    result = aligned(np.arange(64, dtype=np.float32).reshape(8, 8).T)

    assert result.flags.c_contiguous
    assert result[1].tolist() == [1, 9, 17, 25, 33, 41, 49, 57]


def test_sizes_of_files_add_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3))
    (tmp_path / "b").write_bytes(bytes(4))

    assert total_bytes([tmp_path / "a", tmp_path / "b"]) == 7
