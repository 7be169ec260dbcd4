"""A plain float32 Llama in NumPy, written for reading: one sequence, no cache, every position's logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tiny_checkpoints import TinyModel

FloatArray = npt.NDArray[np.float32]


def logits(model: TinyModel, weights: Mapping[str, FloatArray], token_ids: list[int]) -> FloatArray:
    """Logits after each token, `[tokens, vocabulary]`."""
    x = weights["model.embed_tokens.weight"][token_ids]
    for layer in range(model.num_layers):
        part = {
            name.removeprefix(f"model.layers.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        x = x + _attention(model, part, _norm(x, part["input_layernorm.weight"]))
        x = x + _mlp(part, _norm(x, part["post_attention_layernorm.weight"]))
    head = weights["model.embed_tokens.weight" if model.is_tied else "lm_head.weight"]
    return _norm(x, weights["model.norm.weight"]) @ head.T


def _norm(x: FloatArray, weight: FloatArray) -> FloatArray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.float32(1e-5)) * weight


def _linear(part: Mapping[str, FloatArray], name: str, x: FloatArray) -> FloatArray:
    return x @ part[f"{name}.weight"].T + part.get(f"{name}.bias", np.float32(0))


def _mlp(part: Mapping[str, FloatArray], x: FloatArray) -> FloatArray:
    gate = _linear(part, "mlp.gate_proj", x)
    return _linear(part, "mlp.down_proj", gate / (1 + np.exp(-gate)) * _linear(part, "mlp.up_proj", x))


def _attention(model: TinyModel, part: Mapping[str, FloatArray], x: FloatArray) -> FloatArray:
    count, width, group = len(x), model.head_dim, model.num_heads // model.num_kv_heads
    query = _rotate(model, _linear(part, "self_attn.q_proj", x).reshape(count, model.num_heads, width))
    key = _rotate(model, _linear(part, "self_attn.k_proj", x).reshape(count, model.num_kv_heads, width))
    value = _linear(part, "self_attn.v_proj", x).reshape(count, model.num_kv_heads, width)
    out = np.empty((count, model.num_heads, width), np.float32)
    for head in range(model.num_heads):
        scores = query[:, head] @ key[:, head // group].T / np.float32(np.sqrt(width))
        scores[np.triu_indices(count, 1)] = -np.inf
        exponentials = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = exponentials / exponentials.sum(-1, keepdims=True) @ value[:, head // group]
    return _linear(part, "self_attn.o_proj", out.reshape(count, -1))


def _rotate(model: TinyModel, x: FloatArray) -> FloatArray:
    angles = np.outer(np.arange(len(x)), _frequencies(model))[:, None, :]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _frequencies(model: TinyModel) -> npt.NDArray[np.float64]:
    """Radians per position; Llama 3.1's scaling written out case by case."""
    frequencies = []
    for pair in range(model.head_dim // 2):
        frequency = model.rope_theta ** (-2 * pair / model.head_dim)
        if model.rope == "linear":
            frequency /= 4.0
        elif model.rope == "llama3":
            wavelength = 2 * np.pi / frequency
            if wavelength > 64 / 1.0:
                frequency /= 8.0
            elif wavelength >= 64 / 4.0:
                smooth = (64 / wavelength - 1.0) / (4.0 - 1.0)
                frequency = (1 - smooth) * frequency / 8.0 + smooth * frequency
        frequencies.append(frequency)
    return np.array(frequencies)
