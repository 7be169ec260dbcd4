"""A tiny model for each family and each variant worth a reference: 2 or more layers, width 64, 96 tokens.

`CASES` holds their configs as Hugging Face writes them, with windows and original contexts so small that 64 positions
cross them. Names and shapes of the tensors come from `transformers` and are stored in `reference/<case>.npz` beside
what it computed (see `reference/make_references.py`); the values are drawn here, so that a checkpoint can be written
where there is no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
REFERENCES = Path(__file__).with_name("reference")

VOCAB = 96
IDS = [int(value) for value in np.random.default_rng(7).integers(0, VOCAB, 64)]
"""The tokens whose logits are stored."""
NUM_PROMPT, NUM_GREEDY = 20, 32
"""Greedy tokens follow the first `NUM_PROMPT` of `IDS`."""

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 8.0}
_LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 8.0, 12.0, 16.0],
}
_LONG_PARTIAL = {name: value[:6] if name != "type" else value for name, value in _LONG.items()}
_GEMMA = {"head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
_GEMMA3 = {
    "model_type": "gemma3_text",
    "head_dim": 16,
    "hidden_act": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
}
_GPT2 = {
    "model_type": "gpt2",
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_NEOX = {
    "model_type": "gpt_neox",
    "num_key_value_heads": None,
    "hidden_act": "gelu",
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "rope_theta": None,
    "rms_norm_eps": None,
    "layer_norm_eps": 1e-5,
}
_FALCON = {
    "model_type": "falcon",
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rope_theta": 10000.0,
    "alibi": False,
    "bias": False,
}

CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama_llama3": {"rope_scaling": _LLAMA3, "tie_word_embeddings": True},
    "llama_yarn": {"rope_theta": 100.0, "rope_scaling": _YARN},
    "llama_biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": 8},
    "mistral_full": {"model_type": "mistral", "sliding_window": None, "head_dim": 24},
    "qwen2": {"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False, "max_window_layers": 2},
    "qwen2_window": {"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    "qwen2_yarn": {
        "model_type": "qwen2",
        "rope_theta": 100.0,
        "rope_scaling": {**_YARN, "beta_fast": None, "attention_factor": 1.5, "truncate": False},
        "tie_word_embeddings": True,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, **_GEMMA},
    "gemma3_text": {
        **_GEMMA3,
        "num_hidden_layers": 4,
        "sliding_window_pattern": 3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma3_text_types": {
        **_GEMMA3,
        "rope_theta": None,
        "rope_local_base_freq": None,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
        },
    },
    "phi3": {"model_type": "phi3", "sliding_window": 16, "original_max_position_embeddings": 256},
    "phi3_long": {"model_type": "phi3", "rope_scaling": _LONG, "original_max_position_embeddings": 16},
    "phi3_short": {"model_type": "phi3", "rope_scaling": _LONG, "original_max_position_embeddings": 128},
    "phi3_partial": {
        "model_type": "phi3",
        "rope_scaling": _LONG_PARTIAL,
        "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
    },
    "granite": {
        "model_type": "granite",
        "embedding_multiplier": 6.0,
        "attention_multiplier": 0.125,
        "residual_multiplier": 0.3,
        "logits_scaling": 2.0,
        "tie_word_embeddings": True,
    },
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layer_interval": 2},
    "smollm3_list": {
        "model_type": "smollm3",
        "num_hidden_layers": 3,
        "no_rope_layers": [0, 1, 1],
        "use_sliding_window": True,
        "sliding_window": 8,
    },
    "olmo2": {"model_type": "olmo2"},
    "starcoder2": {
        "model_type": "starcoder2",
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": None,
        "norm_epsilon": 1e-5,
        "sliding_window": 16,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    "gpt2": _GPT2,
    "gpt2_relu": _GPT2 | {"activation_function": "relu", "n_inner": 80, "scale_attn_weights": False},
    "gpt_neox": _NEOX,
    "gpt_neox_sequential": _NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0},
    "falcon": _FALCON | {"multi_query": True, "parallel_attn": True},
    "falcon_sequential": _FALCON | {"multi_query": False, "parallel_attn": False, "bias": True},
    "falcon_groups": _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_one_norm": _FALCON
    | {
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 1,
        "ffn_hidden_size": 80,
        "tie_word_embeddings": False,
    },
}
"""Case -> config; those without a `model_type` and those that name a width of their own are completed by `config`."""


def config(case: str) -> dict[str, Any]:
    """The `config.json` of a case."""
    given = CASES[case]
    whole = given if given.get("model_type") in ("gpt2", "falcon") else _LLAMA | given
    # A null in a config file means that the field is not there, but for these.
    kept = ("sliding_window", "pad_token_id")
    return {name: value for name, value in whole.items() if value is not None or name in kept}


def saved_name(case: str, name: str) -> str:
    """The name in a case's file of what `transformers` now calls `name`: published checkpoints keep older names."""
    if case == "gpt_neox":
        return name.replace("lm_head.", "embed_out.")
    return name.removeprefix("transformer.") if case == "gpt2_relu" else name


@dataclass(frozen=True, slots=True)
class Reference:
    """What `transformers` computed: logits `[64, vocabulary]` of `IDS`, greedy tokens; `seed` draws the weights."""

    seed: int
    shapes: Mapping[str, tuple[int, ...]]
    logits: FloatArray
    greedy: list[int]


def reference(case: str) -> Reference:
    """The stored reference of a case."""
    with np.load(REFERENCES / f"{case}.npz") as stored:
        shapes = {name: tuple(shape) for name, shape in json.loads(str(stored["shapes"])).items()}
        return Reference(int(stored["seed"]), shapes, stored["logits"], stored["greedy"].tolist())


def draw(case: str, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, FloatArray]:
    """Values for each tensor: matrices that keep unit size, norms around what stands for 1, small biases."""
    random = np.random.default_rng(seed)
    has_loud_embeddings = case.startswith(("gemma", "granite"))
    centre = np.float32(0.0 if case.startswith("gemma") else 1.0)
    values: dict[str, FloatArray] = {}
    for name in sorted(shapes):
        drawn: FloatArray = random.standard_normal(shapes[name]).astype(np.float32) / np.float32(8)
        if name == "model.norm.weight" and has_loud_embeddings:
            # Of either sign: else a tied head mostly finds the token that came in.
            values[name] = drawn * np.float32(8) + centre - np.float32(1)
        else:
            is_norm = len(shapes[name]) == 1 and name.endswith(".weight")
            values[name] = drawn + centre if is_norm else drawn
    return values


def weights(case: str) -> dict[str, FloatArray]:
    """Every tensor of the case's checkpoint, by its Hugging Face name."""
    stored = reference(case)
    return draw(case, stored.shapes, stored.seed)
