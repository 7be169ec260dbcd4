"""Tensors of a GGUF file under the names and in the order of the checkpoint it was converted from.

GGUF names our weights alike in every architecture (the `gguf` package, `MODEL_TENSORS`); what the checkpoint calls
them is what the family says.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ranvier.errors import ModelError
from ranvier.models.families.family import Family
from ranvier.models.gguf_architectures import GgufArchitecture
from ranvier.models.spec import DecoderSpec
from ranvier.models.weights import Array, Dense, Int4, Int8, Weight, dequantize

ROPE_FACTORS = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
"""Tensors that are a part of the config."""

_SHARED = {"token_embd": "embed", "position_embd": "positions", "output_norm": "final_norm", "output": "head"}
_PARTS = {
    "attn_norm": "attn_norm",
    "post_attention_norm": "attn_post_norm",
    "ffn_norm": "mlp_norm",
    "post_ffw_norm": "mlp_post_norm",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "attn_output": "o",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_SPLIT = {"attn_q": "q", "attn_k": "k", "attn_v": "v"}
_FUSED = {"attn_qkv": "q"}
_TWO_NORMS = {"attn_norm_2": "attn_norm", "attn_norm": "mlp_norm"}
"""Falcon 40B: the norm before the MLP is the one that GGUF calls the attention's."""


class GgufNames:
    """Names of the checkpoint for GGUF names. A name without a counterpart stays as it is, and is refused later."""

    def __init__(self, family: Family, spec: DecoderSpec, there: frozenset[str]) -> None:
        parts = family.parts(spec)
        ours = _PARTS | (_SPLIT if parts["q"].rows is None else _FUSED)
        if "blk.0.attn_norm_2.weight" in there:
            ours = ours | _TWO_NORMS
        self._parts = {theirs: parts[name].name for theirs, name in ours.items() if name in parts}
        self._shared = {theirs: family.shared[name] for theirs, name in _SHARED.items() if name in family.shared}
        self._prefix = family.layer_prefix

    def full(self, name: str) -> str:
        """`blk.3.ffn_up.weight` as `model.layers.3.mlp.up_proj.weight`."""
        stem, _, suffix = name.rpartition(".")
        layer = _layer(stem)
        if layer is None:
            return f"{self._shared[stem]}.{suffix}" if stem in self._shared else name
        number, part = layer
        return f"{self._prefix.format(number)}{self._parts[part]}.{suffix}" if part in self._parts else name

    def stem(self, name: str) -> str:
        """`blk.3.ffn_up.weight` as `ffn_up`."""
        stem = name.rpartition(".")[0]
        layer = _layer(stem)
        return stem if layer is None else layer[1]


def _layer(stem: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
    return (found[1], found[2]) if found else None


class GgufTensors:
    """Undoes what an architecture's converter did to tensors. Codes stay codes wherever only rows moved."""

    def __init__(self, file: str, architecture: GgufArchitecture, spec: DecoderSpec) -> None:
        self._file = file
        self._architecture = architecture
        self._spec = spec

    def restore(self, name: str, stem: str, weight: Weight) -> Weight:
        """The checkpoint's tensor `name`, which GGUF calls `stem`. Raises `ModelError` if its rows do not fit."""
        kind, spec = self._architecture, self._spec
        if kind.norm_shift and stem.endswith("norm"):
            return Dense(dequantize(weight) - np.float32(kind.norm_shift))
        if kind.rotates_neighbours and stem in ("attn_q", "attn_k"):
            heads = spec.num_heads if stem == "attn_q" else spec.num_kv_heads
            self._check_rows(name, weight, 2 * heads, f"{heads} heads")
            return _moved(weight, lambda rows: _halves(rows, heads))
        if kind.regroups_qkv and stem == "attn_qkv":
            groups, each = spec.num_kv_heads, spec.num_heads // spec.num_kv_heads
            self._check_rows(name, weight, groups * (each + 2), f"{groups} groups of {each + 2} heads")
            return _moved(weight, lambda rows: _grouped(rows, groups, each))
        if kind.transposes and len(weight.shape) == 2 and stem not in _SHARED:
            return Dense(np.ascontiguousarray(dequantize(weight).T))
        return weight

    def _check_rows(self, name: str, weight: Weight, divisor: int, who: str) -> None:
        if weight.shape[0] % divisor:
            raise ModelError(
                f"{self._file}: tensor `{name}` has {weight.shape[0]} rows, which {who} cannot share; "
                "the file is damaged"
            )


def _moved(weight: Weight, move: Callable[[Array], Array]) -> Weight:
    """The weight with its rows in another order."""
    if isinstance(weight, Dense):
        return Dense(move(weight.values))
    if isinstance(weight, Int8):
        return Int8(move(weight.codes), move(weight.scales))
    return Int4(move(weight.codes), move(weight.scales), move(weight.zeros))


def _halves(rows: Array, heads: int) -> Array:
    """Undo ggml's row order of rotary pairs: (0, half), (1, half + 1), … becomes halves again."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _grouped(rows: Array, groups: int, each: int) -> Array:
    """From all queries, all keys, all values to each group's `each` queries, its key and its value."""
    width = rows.shape[0] // (groups * (each + 2))
    queries = rows[: groups * each * width].reshape(groups, each * width, *rows.shape[1:])
    keys_values = rows[groups * each * width :].reshape(2, groups, width, *rows.shape[1:])
    joined = np.concatenate([queries, *keys_values], axis=1)
    return joined.reshape(rows.shape)
