"""A tiny model in the form of a real one: a Llama with grouped queries, random weights, always the same bytes.

32 heads, 8 KV heads and powers of two everywhere, so that 2, 4, 8, 16 and 32 cores each take an even part.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

VOCAB = 512
HIDDEN = 256
MLP = 512
NUM_LAYERS = 2
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 32, 8, 16
MAX_POSITIONS = 512

_HEAD_SPREAD = 3.0
"""Deviation of the logits: wide enough that the two most likely tokens seldom come close."""

CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_POSITIONS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def write_tiny_model(directory: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors (8 MB) as Hugging Face checkpoints have them."""
    directory.mkdir(parents=True)
    _write_json(directory / "config.json", CONFIG)
    _write_json(directory / "tokenizer.json", _tokenizer())
    save_file(_weights(np.random.default_rng(20)), directory / "model.safetensors")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _tokenizer() -> dict[str, object]:
    """A word for each id: nothing is tokenized here, but an artifact has to have a tokenizer."""
    vocab = {f"w{index}": index for index in range(VOCAB)}
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    }


def _weights(random: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    def matrix(rows: int, columns: int, spread: float = 1.0) -> npt.NDArray[np.float32]:
        return (random.normal(0.0, spread, (rows, columns)) / math.sqrt(columns)).astype(np.float32)

    ones = np.ones(HIDDEN, np.float32)
    found = {
        "model.embed_tokens.weight": matrix(VOCAB, HIDDEN, math.sqrt(HIDDEN)),
        "model.norm.weight": ones,
        "lm_head.weight": matrix(VOCAB, HIDDEN, _HEAD_SPREAD),
    }
    for layer in range(NUM_LAYERS):
        sizes = {
            "self_attn.q_proj": (NUM_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj": (NUM_KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj": (NUM_KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, NUM_HEADS * HEAD_DIM),
            "mlp.gate_proj": (MLP, HIDDEN),
            "mlp.up_proj": (MLP, HIDDEN),
            "mlp.down_proj": (HIDDEN, MLP),
        }
        found |= {f"model.layers.{layer}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        found |= {
            f"model.layers.{layer}.{name}.weight": ones for name in ("input_layernorm", "post_attention_layernorm")
        }
    return found
