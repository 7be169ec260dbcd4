"""LoRA adapters: two thin matrices beside each matrix that they adapt, `y = W x + scale * B (A x)` (arXiv 2106.09685).

A directory as PEFT saves it: `adapter_config.json` and `adapter_model.safetensors` with, for each adapted module,

    base_model.model.<module>.lora_A.weight   [r, in]
    base_model.model.<module>.lora_B.weight   [out, r]

in this orientation also where the checkpoint's matrix is stored `[in, out]` (`fan_in_fan_out` only matters to those who
merge). A module whose tensor holds several of our matrices has one A for all of them, and B's rows are theirs in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ranvier.errors import ModelError
from ranvier.models.adapter_config import AdapterConfig, read_adapter_config
from ranvier.models.families import family_of
from ranvier.models.sources import Source
from ranvier.models.tensor_file import TensorFile
from ranvier.models.weights import Dense, FloatArray, dequantize

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one matrix: `up @ down`, the scale within `up`.

    `down` is `[r, in]`, `up` `[out, r]`. Matrices that the checkpoint fuses have the same array as `down`.
    """

    down: FloatArray
    up: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A loaded adapter; `parts` by our names of the matrices, `layers.0.q`."""

    name: str
    parts: Mapping[str, LowRank]


@dataclass(frozen=True, slots=True)
class _Module:
    """A linear module of the checkpoint: its layer, and the matrices of ours that it holds, each with its shape."""

    layer: int
    held: Mapping[str, tuple[Source, tuple[int, ...]]]

    @property
    def shape(self) -> tuple[int, int]:
        """`[out, in]` of the whole module."""
        shapes = [shape for _, shape in self.held.values()]
        return sum(shape[0] for shape in shapes), shapes[0][1]


def load_adapter(name: str, directory: Path, config: Mapping[str, object]) -> Adapter:
    """Read an adapter for the model with this `config.json`. Raises `ModelError` that names adapter and tensor."""
    try:
        return _Loader(directory, config).load(name)
    except ModelError as error:
        raise ModelError(f"adapter `{name}` ({directory}): {error}") from None


class _Loader:
    def __init__(self, directory: Path, config: Mapping[str, object]) -> None:
        self._config = read_adapter_config(directory / CONFIG_NAME)
        self._file = _open(directory)
        self._there = {name.removeprefix(_PREFIX) for name in self._file.names}
        stray = sorted(name for name in self._file.names if not name.startswith(_PREFIX))
        if stray:
            raise ModelError(f"tensor `{stray[0]}` does not begin with `{_PREFIX}`; save the adapter with PEFT again")
        self._modules = _modules(config, self._there)

    def load(self, name: str) -> Adapter:
        wanted = [module for module, found in self._modules.items() if self._config.is_target(module, found.layer)]
        self._check_names(wanted)
        parts: dict[str, LowRank] = {}
        for module in wanted:
            parts |= self._parts(module, self._modules[module])
        return Adapter(name=name, parts=parts)

    def _check_names(self, wanted: Sequence[str]) -> None:
        expected = {module + end for module in wanted for end in (_A, _B)}
        left = sorted(self._there - expected)
        if left:
            raise ModelError(_why_left(left, self._modules, self._config))
        missing = sorted(expected - self._there)
        if missing:
            raise ModelError(
                f"tensor `{_PREFIX}{missing[0]}`{_more(missing)} is missing, which `target_modules` calls for; "
                "the file is incomplete, save the adapter again"
            )
        if not wanted:
            raise ModelError(f"`target_modules` names no module of this model, which has {_listed(self._modules)}")

    def _parts(self, module: str, found: _Module) -> dict[str, LowRank]:
        rank, (out, width) = self._config.rank_of(module), found.shape
        down = self._read(module + _A, (rank, width))
        up = self._read(module + _B, (out, rank)) * np.float32(self._config.scale_of(module))
        return {
            ours: LowRank(down, up if source.rows is None else source.rows.of(up))
            for ours, (source, _) in found.held.items()
        }

    def _read(self, name: str, shape: tuple[int, int]) -> FloatArray:
        values = self._file.read(_PREFIX + name)
        if values.shape != shape:
            raise ModelError(
                f"tensor `{_PREFIX}{name}` has shape {list(values.shape)}; the adapter's ranks and this model call for "
                f"{list(shape)}; check that it was trained for this model"
            )
        if values.dtype not in (np.float32, np.float16, np.uint16):
            raise ModelError(
                f"tensor `{_PREFIX}{name}` holds {values.dtype}; save the adapter in float32, float16 or bfloat16"
            )
        floats = dequantize(Dense(values))
        if not np.isfinite(floats).all():
            raise ModelError(f"tensor `{_PREFIX}{name}` holds values that are not finite; the adapter is damaged")
        return floats


def _open(directory: Path) -> TensorFile:
    path = directory / WEIGHTS_NAME
    if path.is_file():
        return TensorFile(path)
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")):
        raise ModelError(
            "holds pickled weights (.bin, .pt), which can run code when loaded; "
            f"save the adapter as `{WEIGHTS_NAME}` (`save_pretrained(..., safe_serialization=True)`)"
        )
    raise ModelError(f"`{WEIGHTS_NAME}` is missing; save the adapter with `safe_serialization=True`")


def _modules(config: Mapping[str, object], there: set[str]) -> dict[str, _Module]:
    """Every linear module of the model's layers, named as the adapter does: with the base model's prefix or without."""
    family = family_of(config)
    spec = family.spec_from_config(config)
    shapes = {ours: shape for ours, shape in spec.layer_shapes().items() if len(shape) == 2}
    names = {
        ours: source
        for ours, source in family.as_saved(family.weight_names(spec), frozenset(there)).items()
        if ours.startswith("layers.") and ours.split(".", 2)[2] in shapes
    }
    held: dict[str, dict[str, tuple[Source, tuple[int, ...]]]] = {}
    for ours, source in names.items():
        module = source.name.removesuffix(".weight")
        held.setdefault(module, {})[ours] = source, shapes[ours.split(".", 2)[2]]
    return {module: _Module(int(next(iter(parts)).split(".")[1]), parts) for module, parts in held.items()}


def _why_left(left: Sequence[str], modules: Mapping[str, _Module], config: AdapterConfig) -> str:
    """What is wrong with tensors that nothing asks for, told by the first of them."""
    first = f"tensor `{_PREFIX}{left[0]}`{_more(left)}"
    if any(part in left[0] for part in ("lora_embedding_", "embed", "wte", "lm_head")):
        return f"{first} adapts the embedding or the head, which is not done; train it for the layers' modules only"
    module = next((module for module in modules if left[0] in (module + _A, module + _B)), None)
    if module is not None:
        return f"{first} is there, but `target_modules` and `layers_to_transform` leave `{module}` out; save it again"
    return (
        f"{first} belongs to nothing that can be adapted here: {_A[1:]} and {_B[1:]} of {_listed(modules)}; "
        "check that it was trained for this model, with PEFT's plain LoRA"
    )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _listed(modules: Mapping[str, _Module]) -> str:
    """The modules of one layer by the ends of their names."""
    return ", ".join(sorted({f"`{module.rsplit('.', 1)[-1]}`" for module in modules}))
