"""What each GGUF architecture means: its metadata as a Hugging Face config, and how its tensors differ.

Keys are those of the GGUF specification (ggml-org/ggml, `docs/gguf.md`); what a missing key means, and what the tensors
went through, are facts of llama.cpp (`conversion/` and `src/models/`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ranvier.errors import ModelError
from ranvier.models.families import refused_families
from ranvier.models.gguf_fields import GgufFields

Config = dict[str, object]

_YARN_NEUTRAL = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0}
"""Keys below `rope.scaling` that other files than those we can read set otherwise."""
_GEMMA3_PERIOD, _GEMMA3_27B_LAYERS = 6, 62
_SMOLLM3_PERIOD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """One value of `general.architecture`.

    `config` reads the Hugging Face config, raising `ModelError`. With `rotates_neighbours` the rows of queries and
    keys stand so that ggml rotates 0 with 1, 2 with 3, …, and not halves. `norm_shift` was added to the weights of
    norms. With `regroups_qkv` the fused matrix has all queries, then all keys, then all values, where the checkpoint
    has them by groups of heads; with `transposes` matrices are `[out, in]` where the checkpoint has `[in, out]`.
    """

    config: Callable[[GgufFields], Config]
    rotates_neighbours: bool = False
    norm_shift: float = 0.0
    regroups_qkv: bool = False
    transposes: bool = False


def architecture_of(fields: GgufFields) -> GgufArchitecture:
    """The architecture of a file. Raises `ModelError` for one that cannot be read, naming those that can."""
    name = fields.architecture
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelError(
            f"{fields.file}: architecture {name!r} is not supported{_reason(name)}; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    if fields.get("expert_count"):
        raise ModelError(f"{fields.file}: experts (mixture of experts) are not supported; use a dense model")
    return ARCHITECTURES[name]


def _reason(name: object) -> str:
    """Why, for an architecture whose family is refused by name too."""
    reasons = {family.replace("_", ""): reason for family, reason in refused_families().items()}
    reason = reasons.get(str(name).replace("-", ""))
    return f" ({reason})" if reason else ""


def _sizes(fields: GgufFields) -> Config:
    """What every family but GPT-2 calls the same."""
    return {
        "vocab_size": fields.rows("token_embd.weight"),
        "hidden_size": fields.integer("embedding_length"),
        "num_hidden_layers": fields.integer("block_count"),
        "num_attention_heads": fields.integer("attention.head_count"),
        "max_position_embeddings": fields.integer("context_length"),
        "tie_word_embeddings": not fields.has("output.weight"),
    }


def _kv_heads(fields: GgufFields) -> int:
    return fields.integer("attention.head_count_kv", fields.integer("attention.head_count"))


def _llama_like(fields: GgufFields, model_type: str) -> Config:
    head_dim, rotated = _head_dim(fields), _rotated(fields)
    if rotated != head_dim:
        raise ModelError(
            f"{fields.file}: `{fields.full('rope.dimension_count')}` is {rotated} and heads have {head_dim} "
            "dimensions; rotating a part is not supported"
        )
    return {
        "model_type": model_type,
        **_sizes(fields),
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_key_value_heads": _kv_heads(fields),
        "head_dim": head_dim,
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        **_rope_scaling(fields),
    }


def _rms_like(fields: GgufFields, model_type: str) -> Config:
    return _llama_like(fields, model_type) | {"rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon")}


def _head_dim(fields: GgufFields) -> int:
    # No heads at all are refused with the other sizes of the config.
    heads = max(fields.integer("attention.head_count"), 1)
    return fields.integer("attention.key_length", fields.integer("embedding_length") // heads)


def _rotated(fields: GgufFields) -> int:
    return fields.integer("rope.dimension_count", _head_dim(fields))


def _share(part: int, whole: int) -> float:
    """A number that, times `whole`, is `part` when cut to a whole number, as readers of `partial_rotary_factor` do."""
    share = part / whole
    return share if int(whole * share) == part else math.nextafter(share, math.inf)


def _rope_scaling(fields: GgufFields) -> Config:
    """As llama.cpp reads it: a factor is linear unless the type says none, and older files have another key."""
    kind = fields.get("rope.scaling.type", "linear")
    if kind == "yarn":
        return {"rope_scaling": _yarn(fields)}
    if kind not in ("none", "linear"):
        raise fields.unsupported("rope.scaling.type", "none, linear, yarn")
    old = fields.number("rope.scale_linear", 1.0)
    factor = 1.0 if kind == "none" else fields.number("rope.scaling.factor", old)
    given = fields.factors("rope_freqs.weight")
    if given is not None:
        return {"rope_scaling": {"rope_type": "factors", "factors": [value * factor for value in given]}}
    return {} if factor == 1.0 else {"rope_scaling": {"rope_type": "linear", "factor": factor}}


def _yarn(fields: GgufFields) -> Config:
    for key, neutral in _YARN_NEUTRAL.items():
        if fields.number(f"rope.scaling.{key}", neutral) != neutral:
            raise fields.unsupported(f"rope.scaling.{key}", str(neutral))
    if fields.has("rope_freqs.weight"):
        raise fields.unsupported("rope.scaling.type", "none and linear beside a tensor `rope_freqs.weight`")
    return {
        "rope_type": "yarn",
        "factor": fields.number("rope.scaling.factor"),
        "original_max_position_embeddings": fields.integer(
            "rope.scaling.original_context_length", fields.integer("context_length")
        ),
        "beta_fast": fields.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": fields.number("rope.scaling.yarn_beta_slow", 1.0),
    }


def _biases(fields: GgufFields) -> Config:
    """Llama's two switches. One bias alone is none: the tensors then stand over and are named."""
    has_attention = fields.has("blk.0.attn_q.bias") and fields.has("blk.0.attn_output.bias")
    return {"attention_bias": has_attention, "mlp_bias": fields.has("blk.0.ffn_down.bias")}


def _llama(fields: GgufFields) -> Config:
    """Llama, or Mistral where a window is given: both have this architecture."""
    window = fields.window()
    if window is not None:
        return _rms_like(fields, "mistral") | {"sliding_window": window}
    return _rms_like(fields, "llama") | _biases(fields)


def _gemma(fields: GgufFields) -> Config:
    return _rms_like(fields, "gemma") | {"hidden_activation": "gelu_pytorch_tanh"}


def _gemma3(fields: GgufFields) -> Config:
    """One file in many has a pattern or a local base; llama.cpp's constants hold for the others."""
    config = _rms_like(fields, "gemma3_text")
    heads, width = fields.integer("attention.head_count"), fields.integer("embedding_length")
    is_27b = fields.integer("block_count") == _GEMMA3_27B_LAYERS
    return {
        **config,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": width // max(heads, 1) if is_27b else _head_dim(fields),
        "rope_local_base_freq": fields.number("rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": fields.get("final_logit_softcapping"),
        **_gemma3_window(fields),
    }


def _gemma3_window(fields: GgufFields) -> Config:
    window = fields.window()
    if window is None:
        return {"sliding_window_pattern": 1}
    pattern = fields.get("attention.sliding_window_pattern", _GEMMA3_PERIOD)
    if isinstance(pattern, list):
        kinds = ["sliding_attention" if is_sliding else "full_attention" for is_sliding in pattern]
        return {"sliding_window": window, "layer_types": kinds}
    period = fields.integer("attention.sliding_window_pattern", _GEMMA3_PERIOD)
    return {"sliding_window": window, "sliding_window_pattern": period}


def _phi3(fields: GgufFields) -> Config:
    """Its window counts here as in the checkpoint, though llama.cpp leaves it out (pull request 13676 there)."""
    head_dim, rotated = _head_dim(fields), _rotated(fields)
    return {
        "model_type": "phi3",
        **_sizes(fields),
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_key_value_heads": _kv_heads(fields),
        "head_dim": head_dim,
        "partial_rotary_factor": _share(rotated, max(head_dim, 1)),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        "sliding_window": fields.window(),
        **_phi3_scaling(fields),
    }


def _phi3_scaling(fields: GgufFields) -> Config:
    long, short = fields.factors("rope_factors_long.weight"), fields.factors("rope_factors_short.weight")
    if long is None or short is None:
        return _rope_scaling(fields)
    scaling: Config = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
    if fields.get("rope.scaling.attn_factor") is not None:
        scaling["attention_factor"] = fields.number("rope.scaling.attn_factor")
    original = fields.integer("rope.scaling.original_context_length", fields.integer("context_length"))
    return {"rope_scaling": scaling, "original_max_position_embeddings": original}


def _granite(fields: GgufFields) -> Config:
    scale = (
        max(_head_dim(fields), 1) ** -0.5 if fields.get("attention.scale") is None else fields.number("attention.scale")
    )
    return {
        **_rms_like(fields, "granite"),
        **_biases(fields),
        "attention_multiplier": scale,
        "embedding_multiplier": fields.number("embedding_scale", 1.0),
        "residual_multiplier": fields.number("residual_scale", 1.0),
        "logits_scaling": fields.number("logit_scale", 1.0),
    }


def _olmo2(fields: GgufFields) -> Config:
    if fields.window() is not None:
        raise fields.unsupported("attention.sliding_window", "0: OLMo 2, and not its successor with windows")
    return _rms_like(fields, "olmo2")


def _starcoder2(fields: GgufFields) -> Config:
    """Files do not keep the checkpoint's window of 4096; as in llama.cpp, every token then sees all before it."""
    return {
        **_llama_like(fields, "starcoder2"),
        "norm_epsilon": fields.number("attention.layer_norm_epsilon"),
        "use_bias": fields.has("blk.0.attn_q.bias"),
        "sliding_window": fields.window(),
    }


def _gpt2(fields: GgufFields) -> Config:
    return {
        "model_type": "gpt2",
        "vocab_size": fields.rows("token_embd.weight"),
        "n_embd": fields.integer("embedding_length"),
        "n_layer": fields.integer("block_count"),
        "n_head": fields.integer("attention.head_count"),
        "n_positions": fields.integer("context_length"),
        "n_inner": fields.integer("feed_forward_length"),
        "layer_norm_epsilon": fields.number("attention.layer_norm_epsilon"),
        "tie_word_embeddings": not fields.has("output.weight"),
    }


def _gpt_neox(fields: GgufFields) -> Config:
    head_dim = max(_head_dim(fields), 1)
    return {
        "model_type": "gpt_neox",
        **_sizes(fields),
        "intermediate_size": fields.integer("feed_forward_length"),
        "layer_norm_eps": fields.number("attention.layer_norm_epsilon"),
        "rotary_emb_base": fields.number("rope.freq_base", 10000.0),
        "rotary_pct": _share(_rotated(fields), head_dim),
        "use_parallel_residual": bool(fields.get("use_parallel_residual", True)),
        "attention_bias": fields.has("blk.0.attn_qkv.bias"),
        **_rope_scaling(fields),
    }


def _falcon(fields: GgufFields) -> Config:
    """Which of the designs it is shows in the tensors: only that of 40B has two norms a layer."""
    return {
        "model_type": "falcon",
        **_sizes(fields),
        "num_kv_heads": _kv_heads(fields),
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 2 if fields.has("blk.0.attn_norm_2.weight") else 1,
        "ffn_hidden_size": fields.integer("feed_forward_length"),
        "layer_norm_epsilon": fields.number("attention.layer_norm_epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        **_rope_scaling(fields),
    }


ARCHITECTURES: Mapping[str, GgufArchitecture] = MappingProxyType(
    {
        "falcon": GgufArchitecture(config=_falcon, regroups_qkv=True),
        "gemma": GgufArchitecture(config=_gemma, norm_shift=1.0),
        "gemma3": GgufArchitecture(config=_gemma3, norm_shift=1.0),
        "gpt2": GgufArchitecture(config=_gpt2, transposes=True),
        "gptneox": GgufArchitecture(config=_gpt_neox, regroups_qkv=True),
        "granite": GgufArchitecture(config=_granite, rotates_neighbours=True),
        "llama": GgufArchitecture(config=_llama, rotates_neighbours=True),
        "olmo2": GgufArchitecture(config=_olmo2),
        "phi3": GgufArchitecture(config=_phi3),
        "qwen2": GgufArchitecture(config=lambda fields: _rms_like(fields, "qwen2")),
        "qwen3": GgufArchitecture(config=lambda fields: _rms_like(fields, "qwen3")),
        "smollm3": GgufArchitecture(
            config=lambda fields: _rms_like(fields, "smollm3") | {"no_rope_layer_interval": _SMOLLM3_PERIOD},
            rotates_neighbours=True,
        ),
        "starcoder2": GgufArchitecture(config=_starcoder2),
    }
)
"""By `general.architecture`, sorted."""
