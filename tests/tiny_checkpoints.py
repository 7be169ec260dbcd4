"""Llama checkpoints with random weights, small enough for tests, as Hugging Face directories and as GGUF files.

`TinyModel` says what to write; the same value always gives the same bytes. `write_checkpoint` and `write_gguf` of one
model hold the same weights as long as the GGUF type can hold them; where it rounds, `gguf_weights` gives what the file
stands for, and `write_checkpoint` takes that as its `weights`.

    model = TinyModel(num_layers=1, rope="llama3")
    write_checkpoint(tmp_path / "checkpoint", model)
    write_gguf(tmp_path / "model.gguf", model, kind="Q8_0")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

FloatArray = npt.NDArray[np.float32]

BEGIN, END, PAD, TURN = "<|begin|>", "<|end|>", "<|pad|>", "<|turn|>"
SPECIAL_TOKENS = (BEGIN, END, PAD, TURN)
"""Ids 0 to 3."""

_MERGES = (
    *("Ġ t", "h e", "i n", "e r", "Ġ a", "r e", "o n", "Ġt he", "l l", "he ll", "hell o", "Ġ w", "o r", "l d", "a t"),
    *("e n", "Ġ o", "Ġw or", "Ġwor ld", "e s", "Ġ Ġ", "t i", "in g", "Ġ f", "i s", "o u", "Ġ .", "a n"),
)


def _alphabet() -> tuple[str, ...]:
    """A printable stand-in for each byte, in the order of the bytes: GPT-2's table."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(moved)) for byte in range(256))


TOKENS = (*SPECIAL_TOKENS, *_alphabet(), *(merge.replace(" ", "") for merge in _MERGES))
"""Spelling of each id: special tokens, bytes, merges; 288 in all."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}: {{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant:{% endif %}"
)

_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """A model by its sizes. `dtype` is that of the safetensors file; `num_shards` above 1 writes an index."""

    seed: int = 0
    vocab_size: int = len(TOKENS)
    hidden_size: int = 64
    intermediate_size: int = 96
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    max_positions: int = 256
    rope_theta: float = 10000.0
    rope: Literal["none", "linear", "llama3"] = "none"
    is_tied: bool = True
    has_attention_bias: bool = False
    has_mlp_bias: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    num_shards: int = 1

    def config(self) -> dict[str, Any]:
        """The `config.json`."""
        scaling: dict[str, Any] | None = {
            "none": None,
            "linear": {"rope_type": "linear", "factor": 4.0},
            "llama3": {"rope_type": "llama3", **_LLAMA3},
        }[self.rope]
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "tie_word_embeddings": self.is_tied,
            "attention_bias": self.has_attention_bias,
            "mlp_bias": self.has_mlp_bias,
            "torch_dtype": self.dtype,
            "bos_token_id": 0,
            "eos_token_id": 1,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by its Hugging Face name."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }
        if not self.is_tied:
            shapes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        for layer in range(self.num_layers):
            shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in self._layer_shapes().items()}
        return shapes

    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        attention = {"q": (width, hidden), "k": (kv_width, hidden), "v": (kv_width, hidden), "o": (hidden, width)}
        mlp = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        }
        for block, parts, has_bias in (
            ("self_attn", attention, self.has_attention_bias),
            ("mlp", mlp, self.has_mlp_bias),
        ):
            for part, shape in parts.items():
                shapes[f"{block}.{part}_proj.weight"] = shape
                if has_bias:
                    shapes[f"{block}.{part}_proj.bias"] = shape[:1]
        return shapes

    def weights(self) -> dict[str, FloatArray]:
        """Values of each tensor, exact in `dtype`. Norms lie around 1; no two tensors share values."""
        random = np.random.default_rng(self.seed)
        values: dict[str, FloatArray] = {}
        for name, shape in self.shapes().items():
            drawn: FloatArray = random.standard_normal(shape).astype(np.float32)
            width = np.float32(np.sqrt(self.hidden_size))
            values[name] = _rounded(1 + drawn / np.float32(8) if "norm" in name else drawn / width, self.dtype)
        return values


def _rounded(values: FloatArray, dtype: str) -> FloatArray:
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        # Cut, not rounded: any bfloat16 value will do, and no rounding of ours is needed to make it.
        cut: FloatArray = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return cut
    return values


def write_checkpoint(directory: Path, model: TinyModel, weights: Mapping[str, FloatArray] | None = None) -> Path:
    """Write a checkpoint directory; `weights` replace the model's own. Returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", model.config())
    _write_json(directory / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [1, 3]})
    _write_json(directory / "tokenizer.json", tokenizer_document())
    _write_json(
        directory / "tokenizer_config.json",
        {"bos_token": BEGIN, "eos_token": END, "add_bos_token": False, "chat_template": CHAT_TEMPLATE},
    )
    _write_shards(directory, dict(model.weights() if weights is None else weights), model)
    return directory


def _write_shards(directory: Path, weights: dict[str, FloatArray], model: TinyModel) -> None:
    if model.num_shards == 1:
        write_safetensors(directory / "model.safetensors", weights, model.dtype)
        return
    names = list(weights)
    weight_map: dict[str, str] = {}
    for shard in range(model.num_shards):
        file = f"model-{shard + 1:05}-of-{model.num_shards:05}.safetensors"
        part = names[shard :: model.num_shards]
        write_safetensors(directory / file, {name: weights[name] for name in part}, model.dtype)
        weight_map |= dict.fromkeys(part, file)
    size = sum(values.size for values in weights.values()) * (4 if model.dtype == "float32" else 2)
    _write_json(
        directory / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}
    )


def write_safetensors(path: Path, weights: Mapping[str, FloatArray], dtype: str = "float32") -> None:
    """Write float32 values as `dtype` in the safetensors format, from its specification alone."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in weights.items():
        raw = _raw(values, dtype)
        code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _raw(values: FloatArray, dtype: str) -> bytes:
    if dtype == "float16":
        return values.astype(np.float16).tobytes()
    if dtype == "bfloat16":
        bits: npt.NDArray[np.uint16] = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return bits.tobytes()
    return values.tobytes()


def tokenizer_document() -> dict[str, Any]:
    """The `tokenizer.json`: byte-level BPE without BOS, four special tokens in front."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": token, **flags} for n, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: n for n, token in enumerate(TOKENS)},
            "merges": [merge.split(" ") for merge in _MERGES],
        },
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor: `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem, _, suffix = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{_GGUF_NAMES[stem]}.{suffix}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_GGUF_NAMES[part]}.{suffix}"


def interleaved(rows: FloatArray, num_heads: int) -> FloatArray:
    """Rows of q or k in ggml's rotary order: of each head 0, half, 1, half + 1, … (llama.cpp, `convert_hf_to_gguf`)."""
    pairs = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def gguf_weights(model: TinyModel, kind: str = "F32", kinds: Mapping[str, str] | None = None) -> dict[str, FloatArray]:
    """What `write_gguf` with the same arguments stands for: Hugging Face names and row order."""
    held = {}
    for name, values in model.weights().items():
        chosen = _kind_of(name, values, kind, kinds)
        # Blocks run along a row, so rounding and row order do not touch each other.
        held[name] = np.asarray(gguf.quants.dequantize(quantized(values, chosen), GGMLQuantizationType[chosen]))
    return {name: values.astype(np.float32).reshape(model.shapes()[name]) for name, values in held.items()}


def _kind_of(name: str, values: FloatArray, kind: str, kinds: Mapping[str, str] | None) -> str:
    return (kinds or {}).get(name, kind if values.ndim == 2 else "F32")


def quantized(values: FloatArray, kind: str) -> npt.NDArray[Any]:
    """Values as the bytes of a GGUF type (as float arrays for F32 and F16). Q6_K needs rows of 256."""
    if kind == "Q6_K":
        return _q6_k(values)
    blocks: npt.NDArray[Any] = gguf.quants.quantize(values, GGMLQuantizationType[kind])
    return blocks


def _q6_k(values: FloatArray) -> npt.NDArray[np.uint8]:
    """Super-blocks of 256: 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, one f16 scale."""
    groups = values.reshape(-1, 16, 16)
    wanted = np.abs(groups).max(axis=-1) / 31
    step = (wanted.max(axis=-1, keepdims=True) / 127).astype(np.float16)
    scales = np.rint(wanted / np.maximum(step.astype(np.float32), 1e-12)).astype(np.int8)
    unit = step.astype(np.float32) * scales
    codes = np.clip(np.rint(groups / np.where(unit == 0, 1, unit)[..., None]), -32, 31).astype(np.int8) + 32
    low, high = (codes & 15).astype(np.uint8).reshape(-1, 2, 2, 64), (codes >> 4).astype(np.uint8).reshape(-1, 2, 4, 32)
    blocks = (
        (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128),
        (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(-1, 64),
        scales.view(np.uint8),
        step.view(np.uint8),
    )
    return np.concatenate(blocks, axis=-1).reshape(values.shape[0], -1)


def write_gguf(
    path: Path,
    model: TinyModel,
    kind: str = "F32",
    kinds: Mapping[str, str] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """Write the model as one GGUF file with its tokenizer. Returns the path.

    Matrices are of type `kind`, but for those that `kinds` names (Hugging Face names); norms are F32.
    `metadata` adds keys, or changes them, or removes those given as None; `without` leaves tensors out (GGUF names).
    """
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, _gguf_metadata(model) | dict(metadata or {}))
    for name, values in model.weights().items():
        if gguf_name(name) in without:
            continue
        chosen = _kind_of(name, values, kind, kinds)
        heads = {"q_proj": model.num_heads, "k_proj": model.num_kv_heads}.get(name.split(".")[-2], 0)
        rows = interleaved(values, heads) if heads else values
        writer.add_tensor(gguf_name(name), quantized(rows, chosen), raw_dtype=GGMLQuantizationType[chosen])
    if model.rope == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(model))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_factors(model: TinyModel) -> FloatArray:
    """What each frequency is divided by, as llama.cpp's converter computes it."""
    factor, low, high = _LLAMA3["factor"], _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    context = _LLAMA3["original_max_position_embeddings"]
    factors = []
    for pair in range(0, model.head_dim, 2):
        wavelength = 2 * np.pi * model.rope_theta ** (pair / model.head_dim)
        smooth = (context / wavelength - low) / (high - low)
        ramp = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1.0 if wavelength < context / high else factor if wavelength > context / low else ramp)
    return np.asarray(factors, np.float32)


def _gguf_metadata(model: TinyModel) -> dict[str, Any]:
    kinds = [3] * len(SPECIAL_TOKENS) + [1] * (len(TOKENS) - len(SPECIAL_TOKENS))
    values: dict[str, Any] = {
        "llama.context_length": model.max_positions,
        "llama.embedding_length": model.hidden_size,
        "llama.block_count": model.num_layers,
        "llama.feed_forward_length": model.intermediate_size,
        "llama.attention.head_count": model.num_heads,
        "llama.attention.head_count_kv": model.num_kv_heads,
        "llama.attention.key_length": model.head_dim,
        "llama.attention.value_length": model.head_dim,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": model.head_dim,
        "llama.rope.freq_base": model.rope_theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": list(_MERGES),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    if model.rope == "linear":
        values |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    return values


def _add_metadata(writer: gguf.GGUFWriter, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key == "general.architecture":
            writer.kv_data[0].pop(key)
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
