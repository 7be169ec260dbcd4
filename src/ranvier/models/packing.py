"""From a checkpoint to the weights file of an artifact, one tensor at a time, and back.

Which form a matrix is held in follows from the checkpoint and `quantize`:

| `quantize` | dense matrix | Q4_0 blocks | Q8_0, Q4_1, K-quant blocks |
| --- | --- | --- | --- |
| `none` | `dtype` | exact int4 | Q8_0 exact int8, Q4_1 exact int4 with fractional zeros, K-quants in `dtype` |
| `auto` | `dtype` | exact int4 | int8 by row: next to nothing lost, and the faster form |
| `int8` | int8 by row | int8 by row | int8 by row |
| `int4` | int4 groups | exact int4 | int4 groups |

Under `int4` embedding, head, query, key and value, and matrices whose rows no group of 32 divides, are int8 by row
unless they are Q4_0 blocks. Norms, biases and learned positions are float32 always. Blocks of other formats count as
the GGUF kind that holds the same: int4 with whole zero points as Q4_0, int8 as Q8_0, the rest as K-quants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ranvier.errors import ModelError
from ranvier.models.checkpoint import Checkpoint, SafetensorsCheckpoint
from ranvier.models.families import family_of, spec_of
from ranvier.models.quantize import INT4_GROUP, quantize_int4, quantize_int8
from ranvier.models.sources import Source
from ranvier.models.spec import DecoderSpec
from ranvier.models.tensor_file import TensorFile, TensorWriter, aligned
from ranvier.models.weights import (
    Array,
    Dense,
    FloatArray,
    Int4,
    Int8,
    Weight,
    dequantize,
    to_bfloat16_bits,
)

Quantize = Literal["none", "auto", "int8", "int4"]
DType = Literal["float32", "bfloat16"]
Progress = Callable[[int, int], None]
"""Called with (tensors done, tensors in all)."""

_VALUES_AT_ONCE = 1 << 22
_TABLES = ("embed", "head")
_SENSITIVE = (*_TABLES, "q", "k", "v")
"""Never rounded to int4. Tables are read by row; in SmolLM2 values alone cost as much perplexity as the eight times
larger gate, and query, key and value are one product, which is faster while they are held alike."""

Importance = Mapping[str, FloatArray]
"""For matrices by our name the weight of each input column in rounding to int4, `[in]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlan:
    """How matrices are held."""

    quantize: Quantize
    dtype: DType


def write_weights(
    checkpoint: Checkpoint, plan: WeightPlan, path: Path, progress: Progress, importance: Importance | None = None
) -> None:
    """Pack every tensor the decoder needs into `path`; one is in memory at a time.

    `importance` makes int4 better where it is known; columns of other matrices count alike.
    Raises `ModelError` listing names when tensors are missing, left over, or of the wrong shape.
    """
    with TensorWriter(path, 3 * len(_matched_names(checkpoint))) as writer:
        for ours, held in held_weights(checkpoint, plan, progress, importance):
            for suffix, values in _parts(held):
                writer.add(ours + suffix, values)
            # Before the next is read: two matrices at once would show in the peak of a large vocabulary.
            del held, values


def held_weights(
    checkpoint: Checkpoint, plan: WeightPlan, progress: Progress, importance: Importance | None = None
) -> Iterator[tuple[str, Weight]]:
    """Every tensor the decoder needs by our name, in the form that the plan gives it, read when it is asked for.

    Raises as `write_weights` does.
    """
    spec, names = spec_of(checkpoint.config), _matched_names(checkpoint)
    stored_shapes = _stored_shapes(spec, names)
    reader = _LastRead(checkpoint)
    for done, (ours, source) in enumerate(names.items()):
        yield ours, _held(checkpoint, reader, ours, source, stored_shapes, plan, (importance or {}).get(ours))
        progress(done + 1, len(names))


def _held(
    checkpoint: Checkpoint,
    reader: _LastRead,
    ours: str,
    source: Source,
    stored_shapes: Mapping[str, tuple[int, ...]],
    plan: WeightPlan,
    importance: FloatArray | None,
) -> Weight:
    stored = _cut_into_rows(checkpoint, ours, source, plan) or reader.read(source.name)
    _check_shape(source.name, stored.shape, stored_shapes[source.name])
    was_quantized = checkpoint.was_quantized(source.name)
    return hold(ours, source.take(stored), plan, was_quantized=was_quantized, importance=importance)


def _cut_into_rows(checkpoint: Checkpoint, ours: str, source: Source, plan: WeightPlan) -> Weight | None:
    """A matrix to be read some rows at a time, where it is rounded so: it never stands beside its rounded form whole.

    None where it has to be read whole.
    """
    is_plain = source.rows is None and not source.is_transposed and ours != "positions"
    if not is_plain or plan.quantize not in ("int8", "int4") or not isinstance(checkpoint, SafetensorsCheckpoint):
        return None
    return checkpoint.read_rows(source.name)


class _LastRead:
    """Reads tensors and keeps the last: the parts of a fused one are asked for one after the other."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._last: tuple[str, Weight] | None = None

    def read(self, name: str) -> Weight:
        """The tensor of that name."""
        if self._last is None or self._last[0] != name:
            self._last = None
            self._last = name, self._checkpoint.read(name)
        return self._last[1]


def _matched_names(checkpoint: Checkpoint) -> dict[str, Source]:
    family = family_of(checkpoint.config)
    spec = family.spec_from_config(checkpoint.config)
    there = checkpoint.names()
    # Before the names are put together: a damaged count of layers would keep this busy until memory runs out.
    if spec.num_layers > len(there):
        raise ModelError(
            f"the checkpoint holds {len(there)} tensors, too few for the {spec.num_layers} layers of its config; "
            "it is incomplete or damaged"
        )
    names = family.as_saved(family.weight_names(spec), there)
    wanted = {source.name for source in names.values()}
    missing = sorted(wanted - there)
    if missing:
        raise ModelError(f"the checkpoint lacks {len(missing)} tensors: {_listed(missing)}")
    left = sorted(name for name in there - wanted if not family.is_ignored(name))
    if left:
        raise ModelError(f"the checkpoint has {len(left)} tensors that its config does not call for: {_listed(left)}")
    return names


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _stored_shapes(spec: DecoderSpec, names: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    """Shape of each checkpoint tensor; one that several weights are rows of has the rows of all of them."""
    shared, of_layer = spec.shared_shapes(), spec.layer_shapes()
    ours_shapes: dict[str, tuple[int, ...]] = {}
    transposed = {source.name for source in names.values() if source.is_transposed}
    for ours, source in names.items():
        shape = shared[ours] if ours in shared else of_layer[ours.split(".", 2)[2]]
        before = ours_shapes.get(source.name, (0,))[0]
        ours_shapes[source.name] = (before + shape[0], *shape[1:])
    return {name: shape[::-1] if name in transposed else shape for name, shape in ours_shapes.items()}


def _check_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(given) != wanted:
        raise ModelError(f"tensor `{name}` has shape {list(given)}; its config calls for {list(wanted)}")


def hold(
    name: str, weight: Weight, plan: WeightPlan, *, was_quantized: bool, importance: FloatArray | None = None
) -> Weight:
    """The form in which one tensor goes into the artifact; see the table above."""
    if len(weight.shape) == 1 or name == "positions":
        return Dense(dequantize(weight))
    if isinstance(weight, Int4) and weight.zeros.dtype == np.uint8 and plan.quantize != "int8":
        return weight
    if plan.quantize == "int4" and name.split(".")[-1] not in _SENSITIVE and weight.shape[1] % INT4_GROUP == 0:
        return _by_rows(weight, lambda values: quantize_int4(_finite(name, values), importance=importance))
    if isinstance(weight, Int8) and weight.scales.shape[1] == 1:
        return weight
    if plan.quantize in ("int8", "int4") or (plan.quantize == "auto" and was_quantized):
        return _by_rows(weight, lambda values: quantize_int8(_finite(name, values)))
    return _in_dtype(weight, plan.dtype) if isinstance(weight, Dense) else weight


def _by_rows(weight: Weight, rounded: Callable[[FloatArray], Weight]) -> Weight:
    """A matrix rounded some rows at a time: as float32 it would be two to eight times what it is held in."""
    rows, step = weight.shape[0], max(1, _VALUES_AT_ONCE // weight.shape[1])
    first = rounded(dequantize(_rows(weight, 0, step)))
    if step >= rows:
        return first
    whole = [np.empty((rows, *part.shape[1:]), part.dtype) for _, part in _parts(first)]
    for start in range(0, rows, step):
        part = first if start == 0 else rounded(dequantize(_rows(weight, start, start + step)))
        for target, (_, values) in zip(whole, _parts(part), strict=True):
            target[start : start + step] = values
    return type(first)(*whole)


def _rows(weight: Weight, start: int, stop: int) -> Weight:
    if isinstance(weight, Dense):
        return Dense(weight.values[start:stop])
    if isinstance(weight, Int8):
        return Int8(weight.codes[start:stop], weight.scales[start:stop])
    return Int4(weight.codes[start:stop], weight.scales[start:stop], weight.zeros[start:stop])


def _finite(name: str, values: FloatArray) -> FloatArray:
    """The values, once it is known that rounding cannot hide a NaN or an infinity among them."""
    if not np.isfinite(values).all():
        raise ModelError(
            f"tensor `{name}` holds values that are not finite and cannot be rounded to integers; "
            "the checkpoint is damaged"
        )
    return values


def _in_dtype(weight: Dense, dtype: DType) -> Weight:
    is_bfloat16 = weight.values.dtype == np.uint16
    if is_bfloat16 == (dtype == "bfloat16"):
        return weight
    if dtype == "float32":
        return Dense(dequantize(weight))
    return _by_rows(weight, lambda values: Dense(to_bfloat16_bits(values)))


def _parts(weight: Weight) -> Iterator[tuple[str, Array]]:
    if isinstance(weight, Dense):
        yield "", weight.values
        return
    yield (".int8" if isinstance(weight, Int8) else ".int4"), weight.codes
    yield ".scales", weight.scales
    if isinstance(weight, Int4):
        yield ".zeros", weight.zeros


class PackedWeights:
    """The weights file of an artifact, mapped. Raises `ModelError` when it is damaged."""

    def __init__(self, path: Path) -> None:
        self._file = TensorFile(path)
        self._names = frozenset(self._file.names)

    def read(self, name: str) -> Weight:
        """One weight by our name; its arrays are views of the mapping where alignment allows."""
        if f"{name}.int8" in self._names:
            return Int8(self._array(f"{name}.int8"), self._array(f"{name}.scales"))
        if f"{name}.int4" in self._names:
            return Int4(self._array(f"{name}.int4"), self._array(f"{name}.scales"), self._array(f"{name}.zeros"))
        return Dense(self._array(name))

    def _array(self, name: str) -> Array:
        if name not in self._names:
            raise ModelError(f"{self._file.path}: tensor `{name}` is missing; export the model again")
        return aligned(self._file.read(name))
