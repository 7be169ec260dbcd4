"""The weights file of an artifact: the table in `packing`'s docstring row by row, and what is refused."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest

from ranvier.errors import ModelError
from ranvier.models import PackedWeights, SafetensorsCheckpoint, WeightPlan, spec_of, write_weights
from ranvier.models.families import family_of
from ranvier.models.gguf_file import GgufCheckpoint
from ranvier.models.packing import DType, Quantize
from ranvier.models.quantize import quantize_int4, quantize_int8
from ranvier.models.tensor_file import TensorFile
from ranvier.models.weights import Dense, Int8, Weight, dequantize, from_bfloat16_bits, to_bfloat16_bits
from tiny_checkpoints import TinyModel, gguf_weights, write_checkpoint, write_gguf

FloatArray = npt.NDArray[np.float32]
MODEL = TinyModel(hidden_size=256, intermediate_size=512, num_heads=4, head_dim=64, num_layers=1, is_tied=False)
SMALL = TinyModel(num_layers=1, has_attention_bias=True, has_mlp_bias=True, is_tied=False)


class Fake:
    """A checkpoint in memory."""

    def __init__(self, model: TinyModel, weights: Mapping[str, FloatArray]) -> None:
        self.config: Mapping[str, object] = model.config()
        self._weights = weights

    def names(self) -> frozenset[str]:
        return frozenset(self._weights)

    def read(self, name: str) -> Weight:
        return Dense(self._weights[name])

    def was_quantized(self, name: str) -> bool:
        return False


def quiet(done: int, total: int) -> None:
    """No progress."""


def packed(checkpoint: Any, folder: Path, quantize: Quantize = "none", dtype: DType = "float32") -> PackedWeights:
    path = folder / "weights.safetensors"
    write_weights(checkpoint, WeightPlan(quantize=quantize, dtype=dtype), path, quiet)
    return PackedWeights(path)


def refused(folder: Path, model: TinyModel, weights: Mapping[str, FloatArray], **plan: Any) -> str:
    with pytest.raises(ModelError) as caught:
        packed(Fake(model, weights), folder, **plan)
    return str(caught.value)


def names_of(model: TinyModel) -> dict[str, str]:
    """Our name -> the checkpoint's."""
    sources = family_of(model.config()).weight_names(spec_of(model.config()))
    return {ours: source.name for ours, source in sources.items()}


# The table

ROWS_INT8, GROUPS_INT8 = "int8 by row", "int8 in groups of 32"
INT4, INT4_FRACTION = "int4 in groups of 32", "int4 in groups of 32, fractional zeros"
TABLE: dict[str, dict[str, str]] = {
    #       dense matrix        Q4_0 blocks                 Q8_0, Q4_1 and K-quant blocks
    "none": {"F32": "dtype", "Q4_0": INT4, "Q8_0": GROUPS_INT8, "Q4_1": INT4_FRACTION, "Q6_K": "dtype"},
    "auto": {"F32": "dtype", "Q4_0": INT4, "Q8_0": ROWS_INT8, "Q4_1": ROWS_INT8, "Q6_K": ROWS_INT8},
    "int8": {"F32": ROWS_INT8, "Q4_0": ROWS_INT8, "Q8_0": ROWS_INT8, "Q4_1": ROWS_INT8, "Q6_K": ROWS_INT8},
    "int4": {"F32": INT4, "Q4_0": INT4, "Q8_0": INT4, "Q4_1": INT4, "Q6_K": INT4},
}
CELLS = [(quantize, kind) for quantize, row in TABLE.items() for kind in row]
EXACT_CELLS = [
    *(("none", kind) for kind in TABLE["none"]),
    ("auto", "F32"),
    ("auto", "Q4_0"),
    ("int4", "Q4_0"),
]


def form_of(weight: Weight) -> str:
    if isinstance(weight, Dense):
        return "bfloat16" if weight.values.dtype == np.uint16 else str(weight.values.dtype)
    groups = weight.shape[1] // weight.scales.shape[1]
    if isinstance(weight, Int8):
        return ROWS_INT8 if weight.scales.shape[1] == 1 else f"int8 in groups of {groups}"
    fraction = ", fractional zeros" if weight.zeros.dtype == np.float32 else ""
    return f"int4 in groups of {groups}{fraction}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GgufCheckpoint]:
    folder = tmp_path_factory.mktemp("sources")
    return {kind: GgufCheckpoint(write_gguf(folder / f"{kind}.gguf", MODEL, kind)) for kind in TABLE["none"]}


def test_the_table_has_a_row_for_each_way_to_quantize() -> None:
    assert set(TABLE) == set(get_args(Quantize))


@pytest.mark.parametrize(("quantize", "kind"), CELLS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_matrix_is_held_as_the_table_says(
    sources: dict[str, GgufCheckpoint], tmp_path: Path, quantize: Quantize, kind: str, dtype: DType
) -> None:
    weights = packed(sources[kind], tmp_path, quantize, dtype)
    wanted = TABLE[quantize][kind].replace("dtype", dtype)

    for part in ("o", "gate", "up", "down"):
        assert form_of(weights.read(f"layers.0.{part}")) == wanted
    for name in ("embed", "head", "layers.0.q", "layers.0.k", "layers.0.v"):
        # The sensitive ones are rounded to int8 where others are rounded to int4; blocks that are int4 already stay.
        held = ROWS_INT8 if quantize == "int4" and kind != "Q4_0" else wanted
        assert form_of(weights.read(name)) == held
    for norm in ("layers.0.attn_norm", "layers.0.mlp_norm", "final_norm"):
        assert form_of(weights.read(norm)) == "float32"


@pytest.mark.parametrize(("quantize", "kind"), EXACT_CELLS)
def test_what_is_not_rounded_is_exact(
    sources: dict[str, GgufCheckpoint], tmp_path: Path, quantize: Quantize, kind: str
) -> None:
    weights, source = packed(sources[kind], tmp_path, quantize), gguf_weights(MODEL, kind)
    for ours, theirs in names_of(MODEL).items():
        np.testing.assert_allclose(dequantize(weights.read(ours)), source[theirs], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("quantize", "kind"), [cell for cell in CELLS if cell not in EXACT_CELLS])
def test_what_is_rounded_is_rounded_once(
    sources: dict[str, GgufCheckpoint], tmp_path: Path, quantize: Quantize, kind: str
) -> None:
    weights = packed(sources[kind], tmp_path, quantize)
    for ours, theirs in names_of(MODEL).items():
        source = dequantize(sources[kind].read(theirs))
        if source.ndim == 1:
            wanted = source
        elif quantize == "int4" and ours.split(".")[-1] in ("o", "gate", "up", "down"):
            wanted = dequantize(quantize_int4(source))
        else:
            wanted = dequantize(quantize_int8(source))
        assert np.array_equal(dequantize(weights.read(ours)), wanted)


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_matrices_are_rounded_to_the_dtype_and_norms_and_biases_never(
    tmp_path: Path, source: Any, dtype: DType
) -> None:
    model = TinyModel(num_layers=1, has_attention_bias=True, has_mlp_bias=True, dtype=source)
    weights = packed(SafetensorsCheckpoint(write_checkpoint(tmp_path, model)), tmp_path, "auto", dtype)
    values = model.weights()
    for ours, theirs in names_of(model).items():
        is_matrix = values[theirs].ndim == 2
        held, wanted = weights.read(ours), values[theirs]
        if is_matrix and dtype == "bfloat16":
            wanted = from_bfloat16_bits(to_bfloat16_bits(wanted))
        assert form_of(held) == (dtype if is_matrix else "float32")
        assert np.array_equal(dequantize(held), wanted)


def test_a_row_that_no_int4_group_divides_is_rounded_to_int8(tmp_path: Path) -> None:
    model = TinyModel(num_layers=1, hidden_size=48, intermediate_size=64)
    weights = packed(Fake(model, model.weights()), tmp_path, "int4")

    assert form_of(weights.read("layers.0.up")) == ROWS_INT8
    assert form_of(weights.read("layers.0.down")) == INT4


def test_int4_follows_the_importance_of_columns_where_it_is_known(tmp_path: Path) -> None:
    importance = {"layers.0.up": np.geomspace(1e-3, 1e3, SMALL.hidden_size).astype(np.float32)}
    path = tmp_path / "weights.safetensors"
    write_weights(Fake(SMALL, SMALL.weights()), WeightPlan(quantize="int4", dtype="float32"), path, quiet, importance)
    packed = PackedWeights(path)
    up, down = (SMALL.weights()[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("up", "down"))

    weighted = quantize_int4(up, importance=importance["layers.0.up"])
    assert np.array_equal(dequantize(packed.read("layers.0.up")), dequantize(weighted))
    assert np.array_equal(dequantize(packed.read("layers.0.down")), dequantize(quantize_int4(down)))


# What is refused


def test_missing_tensors_are_listed(tmp_path: Path) -> None:
    weights = SMALL.weights()
    del weights["model.norm.weight"]
    assert refused(tmp_path, SMALL, weights) == "the checkpoint lacks 1 tensors: model.norm.weight"


def test_only_the_first_missing_tensors_are_listed(tmp_path: Path) -> None:
    weights = {name: values for name, values in SMALL.weights().items() if "mlp" not in name}
    assert refused(tmp_path, SMALL, weights) == (
        "the checkpoint lacks 6 tensors: model.layers.0.mlp.down_proj.bias, model.layers.0.mlp.down_proj.weight, "
        "model.layers.0.mlp.gate_proj.bias, model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.bias "
        "and 1 more"
    )


@pytest.mark.parametrize("layers", [20, 20_000])
def test_more_layers_than_there_are_tensors_are_refused_at_once(tmp_path: Path, layers: int) -> None:
    """The names of all layers were put together before they were compared with what is there.

    A damaged count may be 2**32; 20 000 layers are enough to tell, and few enough to fail and not to hang.
    """
    fake = Fake(SMALL, SMALL.weights())
    fake.config = SMALL.config() | {"num_hidden_layers": layers}
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            packed(fake, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value) == (
        f"the checkpoint holds {len(SMALL.shapes())} tensors, too few for the {layers} layers of its config; "
        "it is incomplete or damaged"
    )
    assert peak < 1_000_000


def test_tensors_left_over_are_listed(tmp_path: Path) -> None:
    extra = {f"model.layers.{n}.self_attn.q_norm.weight": np.ones(16, np.float32) for n in range(7)}
    assert refused(tmp_path, SMALL, SMALL.weights() | extra) == (
        "the checkpoint has 7 tensors that its config does not call for: "
        + ", ".join(f"model.layers.{n}.self_attn.q_norm.weight" for n in range(5))
        + " and 2 more"
    )


@pytest.mark.parametrize("name", SMALL.shapes())
def test_every_tensor_must_have_its_shape(tmp_path: Path, name: str) -> None:
    values = SMALL.weights()[name]
    larger = np.concatenate([values, values[:1]])
    assert refused(tmp_path, SMALL, SMALL.weights() | {name: larger}) == (
        f"tensor `{name}` has shape {list(larger.shape)}; its config calls for {list(values.shape)}"
    )


def test_a_transposed_matrix_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    assert refused(tmp_path, SMALL, SMALL.weights() | {name: SMALL.weights()[name].T}) == (
        f"tensor `{name}` has shape [64, 96]; its config calls for [96, 64]"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_values_that_are_not_finite_cannot_be_rounded(tmp_path: Path, value: float, quantize: str) -> None:
    weights = SMALL.weights()
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = value
    assert refused(tmp_path, SMALL, weights, quantize=quantize) == (
        "tensor `layers.0.up` holds values that are not finite and cannot be rounded to integers; "
        "the checkpoint is damaged"
    )


# What is let through


def test_a_tied_head_may_be_saved_a_second_time(tmp_path: Path) -> None:
    model = TinyModel(num_layers=1, is_tied=True)
    values = model.weights()
    twice = values | {"lm_head.weight": values["model.embed_tokens.weight"]}
    weights = packed(Fake(model, twice), tmp_path)

    assert "head" not in TensorFile(tmp_path / "weights.safetensors").names
    assert np.array_equal(dequantize(weights.read("embed")), values["model.embed_tokens.weight"])


def test_an_untied_head_is_needed(tmp_path: Path) -> None:
    weights = SMALL.weights()
    del weights["lm_head.weight"]
    assert refused(tmp_path, SMALL, weights) == "the checkpoint lacks 1 tensors: lm_head.weight"


def test_rotary_buffers_of_old_exports_are_left_unread(tmp_path: Path) -> None:
    buffers = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32) for n in range(3)}
    packed(Fake(SMALL, SMALL.weights() | buffers), tmp_path)

    assert not any("inv_freq" in name for name in TensorFile(tmp_path / "weights.safetensors").names)


def test_progress_counts_every_tensor(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    plan = WeightPlan(quantize="int8", dtype="float32")
    write_weights(Fake(SMALL, SMALL.weights()), plan, tmp_path / "w", lambda *counts: seen.append(counts))

    assert seen == [(n + 1, len(SMALL.shapes())) for n in range(len(SMALL.shapes()))]


@pytest.mark.parametrize("quantize", get_args(Quantize))
def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, quantize: Quantize) -> None:
    packed(Fake(SMALL, SMALL.weights()), tmp_path, quantize)
    first = (tmp_path / "weights.safetensors").read_bytes()
    packed(Fake(SMALL, SMALL.weights()), tmp_path, quantize)

    assert (tmp_path / "weights.safetensors").read_bytes() == first


class Watched(Fake):
    """Remembers, at each read, how many matrices that were read before are still in memory."""

    def __init__(self, model: TinyModel) -> None:
        super().__init__(model, model.weights())
        self._given: list[weakref.ref[Any]] = []
        self.alive: list[int] = []

    def read(self, name: str) -> Weight:
        self.alive.append(sum(given() is not None for given in self._given))
        values = self._weights[name].copy()
        self._given.append(weakref.ref(values))
        return Dense(values)


@pytest.mark.parametrize("quantize", get_args(Quantize))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_matrix_is_in_memory_when_the_next_is_read(tmp_path: Path, quantize: Quantize, dtype: DType) -> None:
    watched = Watched(SMALL)
    packed(watched, tmp_path, quantize, dtype)

    assert watched.alive == [0] * len(SMALL.shapes())


@pytest.mark.parametrize(("quantize", "dtype"), [("int8", "float32"), ("int4", "float32"), ("none", "bfloat16")])
def test_a_large_matrix_is_rounded_some_rows_at_a_time(tmp_path: Path, quantize: Quantize, dtype: DType) -> None:
    """A vocabulary that is most of the model: 16 M values as float32 take 64 MB, and rounding whole took 250 more."""
    model = TinyModel(num_layers=1, vocab_size=1 << 18)
    fake = Fake(model, model.weights())
    tracemalloc.start()
    try:
        weights = packed(fake, tmp_path, quantize, dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    rows = slice(-3, None)
    embed = dequantize(weights.read("embed"))[rows]
    source = model.weights()["model.embed_tokens.weight"][rows]
    wanted = quantize_int8(source) if quantize != "none" else Dense(to_bfloat16_bits(source))

    assert np.array_equal(embed, dequantize(wanted))
    assert peak < 2 * (1 << 18) * 64 * (1 if quantize != "none" else 2) + 100_000_000


# Reading


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_a_matrix_that_is_rounded_is_never_read_whole(
    tmp_path: Path, quantize: Quantize, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside its rounded form it would be most of the memory of a model with a large vocabulary."""
    model = TinyModel(dtype=stored)
    write_checkpoint(tmp_path / "c", model)
    for folder in ("whole", "rows"):
        (tmp_path / folder).mkdir()
    whole = packed(Fake(model, model.weights()), tmp_path / "whole", quantize)
    expected = {name: dequantize(whole.read(name)) for name in names_of(model)}
    load = TensorFile.load

    def only_vectors(self: TensorFile, name: str) -> Any:
        assert len(self.shape(name)) == 1, f"`{name}` is read whole"
        return load(self, name)

    monkeypatch.setattr(TensorFile, "load", only_vectors)
    found = packed(SafetensorsCheckpoint(tmp_path / "c"), tmp_path / "rows", quantize)
    assert all(np.array_equal(dequantize(found.read(name)), values) for name, values in expected.items())


@pytest.mark.parametrize("quantize", get_args(Quantize))
def test_arrays_lie_on_borders_that_kernels_can_use(tmp_path: Path, quantize: Quantize) -> None:
    weights = packed(Fake(SMALL, SMALL.weights()), tmp_path, quantize)
    for name in names_of(SMALL):
        weight: Any = weights.read(name)
        for part in ("values", "codes", "scales", "zeros"):
            if hasattr(weight, part):
                assert getattr(weight, part).ctypes.data % 64 == 0


def test_a_name_that_is_not_there_is_refused(tmp_path: Path) -> None:
    weights = packed(Fake(SMALL, SMALL.weights()), tmp_path)
    with pytest.raises(ModelError) as caught:
        weights.read("layers.9.q")
    assert str(caught.value) == (
        f"{tmp_path}/weights.safetensors: tensor `layers.9.q` is missing; export the model again"
    )


@pytest.mark.parametrize("part", ["scales", "zeros"])
def test_codes_without_their_scales_are_refused(tmp_path: Path, part: str) -> None:
    packed(Fake(SMALL, SMALL.weights()), tmp_path, "int4")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes().replace(f'"layers.0.up.{part}"'.encode(), f'"layers.X.up.{part}"'.encode()))
    with pytest.raises(ModelError) as caught:
        PackedWeights(path).read("layers.0.up")
    assert str(caught.value) == f"{path}: tensor `layers.0.up.{part}` is missing; export the model again"
