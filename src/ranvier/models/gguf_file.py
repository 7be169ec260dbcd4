"""GGUF files: metadata as a Hugging Face config, tensors under Hugging Face names. The only door to `gguf`.

Block layouts are those of ggml (https://github.com/ggml-org/ggml, `ggml-common.h`); the `gguf` package reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from gguf import quants as gguf_quants

from ranvier.errors import ModelError
from ranvier.models.weights import Array, Dense, FloatArray, Int4, Int8, Weight, pack_nibbles

_BLOCK = 32
_MAX_ENTRIES = 1 << 22
"""Of an array in the metadata; the largest vocabularies have a few hundred thousand tokens and merges."""

_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_DENSE_TYPES = ("F32", "F16", "BF16")


class GgufCheckpoint:
    """A `.gguf` file as a checkpoint.

    Raises `ModelError` when it is missing, not GGUF, cut short, or of an architecture that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self._reader = _open(path)
        self._name = path.name
        self._tensors = {_hf_name(tensor.name): tensor for tensor in self._reader.tensors}
        self._rope_factors = self._tensors.pop("rope_freqs.weight", None)
        self._config = self._read_config()

    @property
    def config(self) -> Mapping[str, object]:
        """The `config.json` that describes the same model."""
        return self._config

    @property
    def metadata(self) -> Mapping[str, object]:
        """Every key-value pair of the file, arrays as lists."""
        return {key: self._value(key) for key in self._reader.fields}

    def names(self) -> frozenset[str]:
        """Tensor names as the Hugging Face checkpoint has them."""
        return frozenset(self._tensors)

    def read(self, name: str) -> Weight:
        """The tensor: Q4_0, Q4_1 and Q8_0 blocks as codes and scales, exactly; other kinds as float32."""
        tensor = self._tensors[name]
        kind = tensor.tensor_type.name
        if not tensor.n_elements:
            raise ModelError(f"{self._name}: tensor `{name}` is empty; the file is damaged")
        if kind in _EXACT and len(tensor.shape) == 2:
            weight: Weight = _EXACT[kind](tensor.data.reshape(int(tensor.shape[1]), -1))
        else:
            weight = Dense(self._dequantize(name))
        heads = self._rotated_heads(name)
        if heads and weight.shape[0] % (2 * heads):
            raise ModelError(
                f"{self._name}: tensor `{name}` has {weight.shape[0]} rows, which {heads} heads cannot share; "
                "the file is damaged"
            )
        return _interleaved_to_halves(weight, heads) if heads else weight

    def was_quantized(self, name: str) -> bool:
        """Whether the tensor is held in blocks of codes."""
        return self._tensors[name].tensor_type.name not in _DENSE_TYPES

    def _dequantize(self, name: str) -> FloatArray:
        tensor = self._tensors[name]
        try:
            values = gguf_quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise ModelError(
                f"{self._name}: tensor `{name}` has type {tensor.tensor_type.name}, which cannot be read; "
                "use a file in Q4_0, Q4_1, Q8_0, F16, BF16, F32 or K-quants"
            ) from None
        return np.asarray(values, np.float32).reshape(tuple(int(size) for size in tensor.shape[::-1]))

    def _rotated_heads(self, name: str) -> int:
        """Heads whose rows stand in ggml's rotary order, for the tensors that have them."""
        if name.endswith("q_proj.weight"):
            return self._integer("attention.head_count")
        if name.endswith("k_proj.weight"):
            return self._integer("attention.head_count_kv", self._integer("attention.head_count"))
        return 0

    def _read_config(self) -> dict[str, object]:
        architecture = self._value("general.architecture")
        if architecture != "llama":
            raise ModelError(f"{self._name}: architecture {architecture!r} is not supported; supported: llama")
        if self._value("llama.expert_count"):
            raise ModelError(f"{self._name}: experts (mixture of experts) are not supported; use a dense model")
        config: dict[str, object] = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self._vocab_size(),
            "hidden_size": self._integer("embedding_length"),
            "intermediate_size": self._integer("feed_forward_length"),
            "num_hidden_layers": self._integer("block_count"),
            "num_attention_heads": self._integer("attention.head_count"),
            "num_key_value_heads": self._integer("attention.head_count_kv", self._integer("attention.head_count")),
            "head_dim": self._head_dim(),
            "max_position_embeddings": self._integer("context_length"),
            "rms_norm_eps": self._number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._number("rope.freq_base", 10000.0),
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
        }
        return config | self._rope_scaling()

    def _vocab_size(self) -> int:
        embed = self._tensors.get("model.embed_tokens.weight")
        if embed is None:
            raise ModelError(f"{self._name}: tensor `token_embd.weight` is missing; the file is incomplete")
        if len(embed.shape) != 2:
            shape = [int(size) for size in embed.shape[::-1]]
            raise ModelError(f"{self._name}: tensor `token_embd.weight` has shape {shape}; a matrix is needed")
        return int(embed.shape[1])

    def _head_dim(self) -> int:
        # No heads at all are refused with the other sizes of the config.
        heads = max(self._integer("attention.head_count"), 1)
        head_dim = self._integer("attention.key_length", self._integer("embedding_length") // heads)
        rotated = self._integer("rope.dimension_count", head_dim)
        if rotated != head_dim:
            raise ModelError(
                f"{self._name}: `llama.rope.dimension_count` is {rotated} and heads have {head_dim} dimensions; "
                "rotating a part is not supported"
            )
        return head_dim

    def _rope_scaling(self) -> dict[str, object]:
        """As llama.cpp reads it: a factor is linear unless the type says none, and older files have another key."""
        kind = self._value("llama.rope.scaling.type", "linear")
        if kind not in ("none", "linear"):
            raise ModelError(
                f"{self._name}: `llama.rope.scaling.type` {kind!r} is not supported; supported: none, linear"
            )
        old = self._number("rope.scale_linear", 1.0)
        factor = 1.0 if kind == "none" else self._number("rope.scaling.factor", old)
        if self._rope_factors is not None:
            factors = [float(value) * factor for value in self._rope_factors.data.reshape(-1)]
            return {"rope_scaling": {"rope_type": "factors", "factors": factors}}
        return {} if factor == 1.0 else {"rope_scaling": {"rope_type": "linear", "factor": factor}}

    def _value(self, key: str, default: object = None) -> object:
        field = self._reader.fields.get(key)
        try:
            return default if field is None else field.contents()
        except (UnicodeDecodeError, IndexError, ValueError):
            raise ModelError(f"{self._name}: `{key}` is damaged; download the file again") from None

    def _integer(self, key: str, default: int | None = None) -> int:
        value = self._value(f"llama.{key}", default)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ModelError(f"{self._name}: `llama.{key}` must be a whole number. Given: {value!r}")
        return int(value)

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._value(f"llama.{key}", default)
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)):
            raise ModelError(f"{self._name}: `llama.{key}` must be a number. Given: {value!r}")
        # float32 in the file; the shortest decimal is what the checkpoint's author wrote.
        return float(str(np.float32(value)))


class _BoundedReader(GGUFReader):  # type: ignore[misc]  # the package is read untyped
    """The package's reader, made to stop where the file does.

    It takes what lies beyond the end as empty: a damaged length would keep it busy with entries of no bytes.
    """

    def _get(self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: str | None = None) -> Array:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("a length points beyond the end of the file")
        values: Array = super()._get(offset, dtype, count, override_order)
        return values

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            if count > _MAX_ENTRIES:
                raise ValueError(f"an array of {count} entries")
        return super()._get_field_parts(orig_offs, raw_type)


def _open(path: Path) -> GGUFReader:
    try:
        return _BoundedReader(path)
    except FileNotFoundError:
        raise ModelError(f"cannot read {path}: no such file") from None
    except (ValueError, IndexError, KeyError, OverflowError, TypeError, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name}: not a GGUF file, or cut short ({error}); download it again") from None


def _hf_name(name: str) -> str:
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if layer and layer[2] in _LAYER_NAMES:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}"
    return _TOP_NAMES.get(name, name)


def _half(block: npt.NDArray[np.uint8]) -> FloatArray:
    return np.ascontiguousarray(block).view(np.float16)[..., 0].astype(np.float32)


def _nibble_halves(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Ggml keeps values 0-15 of a block in the low nibbles and 16-31 in the high ones."""
    codes = np.concatenate([packed & 15, packed >> 4], axis=-1)
    return pack_nibbles(codes).reshape(codes.shape[0], -1)


def _q4_0(data: npt.NDArray[np.uint8]) -> Int4:
    """Blocks of `f16 scale, 16 bytes`: value = (code - 8) * scale."""
    blocks = data.reshape(data.shape[0], -1, 2 + _BLOCK // 2)
    scales = _half(blocks[..., :2])
    return Int4(_nibble_halves(blocks[..., 2:]), scales, np.full(scales.shape, 8, np.uint8))


def _q4_1(data: npt.NDArray[np.uint8]) -> Int4:
    """Blocks of `f16 scale, f16 minimum, 16 bytes`: value = code * scale + minimum, so zero = -minimum / scale."""
    blocks = data.reshape(data.shape[0], -1, 4 + _BLOCK // 2)
    scales, minima = _half(blocks[..., :2]), _half(blocks[..., 2:4])
    # A block of equal values has scale 0: any scale does, as long as code 0 gives the minimum.
    flat = scales == 0
    safe = np.where(flat, np.where(minima == 0, np.float32(1), -minima), scales)
    codes = np.where(flat[..., None], np.uint8(0), blocks[..., 4:])
    return Int4(_nibble_halves(codes), safe, (-minima / safe).astype(np.float32))


def _q8_0(data: npt.NDArray[np.uint8]) -> Int8:
    """Blocks of `f16 scale, 32 signed bytes`."""
    blocks = data.reshape(data.shape[0], -1, 2 + _BLOCK)
    codes = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(data.shape[0], -1)
    return Int8(codes, _half(blocks[..., :2]))


_EXACT: dict[str, Callable[[npt.NDArray[np.uint8]], Weight]] = {
    GGMLQuantizationType.Q4_0.name: _q4_0,
    GGMLQuantizationType.Q4_1.name: _q4_1,
    GGMLQuantizationType.Q8_0.name: _q8_0,
}


def _interleaved_to_halves(weight: Weight, heads: int) -> Weight:
    """Undo ggml's row order of rotary pairs: (0, half), (1, half + 1), … becomes halves again."""
    if isinstance(weight, Dense):
        return Dense(_reorder(weight.values, heads))
    if isinstance(weight, Int8):
        return Int8(_reorder(weight.codes, heads), _reorder(weight.scales, heads))
    return Int4(_reorder(weight.codes, heads), _reorder(weight.scales, heads), _reorder(weight.zeros, heads))


def _reorder(rows: Array, heads: int) -> Array:
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
