"""The tiny models of `tiny_families` as GGUF files, written as llama.cpp's converters write them.

Names come from the `gguf` package's own table of Hugging Face names, keys from its writer; what happens to the values
on the way is spelled out here, from llama.cpp's `conversion/` folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from tiny_checkpoints import interleaved, quantized
from tiny_families import CASES, FloatArray, config, weights

Values = dict[str, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufCase:
    """A case of `tiny_families`, by default of the same name, that a GGUF file can hold.

    `changes` are made to its config where a file cannot say what that says; `keys` are added to the metadata.
    """

    architecture: str
    case: str
    changes: Mapping[str, Any]
    keys: Mapping[str, Any]

    def config(self) -> dict[str, Any]:
        """The config of the checkpoint that the file was made from."""
        return {name: value for name, value in (config(self.case) | self.changes).items() if value != "absent"}

    def weights(self) -> Values:
        """The tensors of that checkpoint."""
        return weights(self.case)


def _case(architecture: str, case: str, changes: Mapping[str, Any] | None = None, **keys: Any) -> GgufCase:
    assert case in CASES
    return GgufCase(architecture=architecture, case=case, changes=changes or {}, keys=keys)


_PATTERN = "attention.sliding_window_pattern"
_HEAD_WIDTH = {"query_pre_attn_scalar": 16}
"""What files of Gemma 3 mean, having no key for it."""

GGUF_CASES: dict[str, GgufCase] = {
    "llama": _case("llama", "llama"),
    "llama_linear": _case("llama", "llama_linear"),
    "llama_yarn": _case("llama", "llama_yarn"),
    "llama_biases": _case("llama", "llama_biases"),
    "mistral": _case("llama", "mistral", **{"attention.sliding_window": 8}),
    "mistral_full": _case("llama", "mistral_full", {"model_type": "llama"}),
    "qwen2": _case("qwen2", "qwen2"),
    "qwen3": _case("qwen3", "qwen3"),
    "gemma": _case("gemma", "gemma"),
    "gemma3": _case("gemma3", "gemma3_text", _HEAD_WIDTH, **{_PATTERN: 3}),
    "gemma3_all_local": _case(
        "gemma3", "gemma3_text", {**_HEAD_WIDTH, "sliding_window_pattern": 6, "rope_scaling": None}
    ),
    "gemma3_list": _case(
        "gemma3", "gemma3_text_types", _HEAD_WIDTH, **{_PATTERN: [False, True], "rope.freq_base_swa": 5000.0}
    ),
    "phi3": _case("phi3", "phi3"),
    "phi3_long": _case("phi3", "phi3_long"),
    "phi3_short": _case("phi3", "phi3_short"),
    "phi3_partial": _case("phi3", "phi3_partial"),
    "granite": _case("granite", "granite"),
    "smollm3": _case("smollm3", "smollm3", {"no_rope_layer_interval": 4}),
    "olmo2": _case("olmo2", "olmo2"),
    "starcoder2": _case("starcoder2", "starcoder2", {"sliding_window": None}),
    "gpt2": _case("gpt2", "gpt2"),
    "gpt_neox": _case("gptneox", "gpt_neox"),
    "gpt_neox_sequential": _case("gptneox", "gpt_neox_sequential"),
    "falcon": _case("falcon", "falcon"),
    "falcon_groups": _case("falcon", "falcon_groups"),
    "falcon_one_norm": _case("falcon", "falcon_one_norm"),
}
"""Every architecture, and every variant of it that shows in a file."""

_ARCH = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}


def write_family_gguf(path: Path, case: GgufCase, kind: str = "F32", **metadata: Any) -> Path:
    """Write the case as a GGUF file without a tokenizer. Returns the path.

    Matrices that `kind` can hold are of that type. `metadata` (with `__` for the dots of a key) changes keys, or
    removes those given as None.
    """
    writer = GGUFWriter(path, case.architecture)
    settings = case.config()
    _ADD_SIZES[case.architecture](writer, settings)
    _add_rope(writer, settings, case.architecture)
    for key, value in case.keys.items():
        _add(writer, f"{case.architecture}.{key}", value)
    for key, value in metadata.items():
        name = f"{case.architecture}.{key.replace('__', '.')}"
        writer.kv_data[0].pop(name, None)
        if value is not None:
            _add(writer, name, value)
    for name, values in gguf_values(case).items():
        chosen = kind if values.ndim == 2 and values.shape[1] % 32 == 0 else "F32"
        writer.add_tensor(name, quantized(values, chosen), raw_dtype=GGMLQuantizationType[chosen])
    _write(writer)
    return path


def _write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds: tuple[tuple[type, Callable[[str, Any], None]], ...] = (
        (bool, writer.add_bool),
        (int, writer.add_uint32),
        (float, writer.add_float32),
        (str, writer.add_string),
        (list, writer.add_array),
    )
    next(add for kind, add in kinds if isinstance(value, kind))(key, value)


def gguf_values(case: GgufCase) -> Values:
    """Tensors as the file holds them, by GGUF name."""
    settings = case.config()
    layers = settings.get("num_hidden_layers", settings.get("n_layer", 0))
    names = gguf.get_tensor_name_map(_ARCH[case.architecture], layers)
    held: Values = {}
    for name, values in case.weights().items():
        if name.endswith((".attn.bias", ".attn.masked_bias", "inv_freq")) or (
            name == "lm_head.weight" and settings.get("tie_word_embeddings", False)
        ):
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        held[theirs] = np.ascontiguousarray(_converted(case.architecture, name, values, settings))
    return held | _factor_tensors(settings)


def _converted(architecture: str, name: str, values: FloatArray, settings: Mapping[str, Any]) -> FloatArray:
    part = name.split(".")[-2]
    if architecture in ("llama", "granite", "smollm3") and part in ("q_proj", "k_proj"):
        heads = settings["num_attention_heads"] if part == "q_proj" else settings["num_key_value_heads"]
        rows = interleaved(values.reshape(values.shape[0], -1), heads)
        return rows.reshape(values.shape)
    if architecture in ("gemma", "gemma3") and name.endswith("norm.weight"):
        return values + np.float32(1)
    if architecture == "gpt2" and part in ("c_attn", "c_proj", "c_fc") and values.ndim == 2:
        return values.T
    if architecture in ("falcon", "gptneox") and part == "query_key_value":
        heads = settings["num_attention_heads"]
        groups = heads if architecture == "gptneox" else settings.get("num_kv_heads", 1)
        return _queries_first(values, heads, groups)
    return values


def _queries_first(fused: FloatArray, heads: int, groups: int) -> FloatArray:
    """All queries, then all keys, then all values, from groups of queries with a key and a value each."""
    by_head = fused.reshape(groups, heads // groups + 2, -1, *fused.shape[1:])
    parts = (by_head[:, :-2], by_head[:, -2], by_head[:, -1])
    return np.concatenate([part.reshape(-1, *fused.shape[1:]) for part in parts])


def _factor_tensors(settings: Mapping[str, Any]) -> Values:
    scaling = settings.get("rope_scaling") or {}
    return {
        f"rope_factors_{length}.weight": np.array(scaling[f"{length}_factor"], np.float32)
        for length in ("long", "short")
        if f"{length}_factor" in scaling
    }


def _add_rope(writer: GGUFWriter, settings: Mapping[str, Any], architecture: str) -> None:
    nested = settings.get("rope_parameters", {}).get("full_attention", {})
    theta = settings.get("rope_theta", nested.get("rope_theta"))
    # Converters of these leave the default out.
    if theta is not None and architecture not in ("gemma", "falcon"):
        writer.add_rope_freq_base(theta)
    scaling = settings.get("rope_scaling") or nested
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
    if kind == "longrope":
        scale = settings["max_position_embeddings"] / settings["original_max_position_embeddings"]
        magnitude = np.sqrt(1 + np.log(scale) / np.log(settings["original_max_position_embeddings"]))
        writer.add_rope_scaling_attn_factors(float(magnitude))


def _add_common(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    writer.add_context_length(settings["max_position_embeddings"])
    writer.add_embedding_length(settings["hidden_size"])
    writer.add_block_count(settings["num_hidden_layers"])
    writer.add_feed_forward_length(settings["intermediate_size"])
    writer.add_head_count(settings["num_attention_heads"])
    writer.add_head_count_kv(settings.get("num_key_value_heads", settings["num_attention_heads"]))


def _add_rms(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    _add_common(writer, settings)
    writer.add_layer_norm_rms_eps(settings["rms_norm_eps"])
    if "head_dim" in settings:
        writer.add_key_length(settings["head_dim"])
        writer.add_value_length(settings["head_dim"])


def _add_llama(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    _add_rms(writer, settings)
    writer.add_rope_dimension_count(_head_dim(settings))


def _add_gemma3(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    _add_rms(writer, settings)
    writer.add_sliding_window(settings["sliding_window"])


def _add_phi3(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    _add_rms(writer, settings)
    writer.add_rope_dimension_count(int(settings.get("partial_rotary_factor", 1.0) * _head_dim(settings)))
    writer.add_rope_scaling_orig_ctx_len(settings["original_max_position_embeddings"])
    writer.add_sliding_window(settings.get("sliding_window") or 0)


def _add_granite(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    _add_llama(writer, settings)
    writer.add_attention_scale(settings["attention_multiplier"])
    writer.add_embedding_scale(settings["embedding_multiplier"])
    writer.add_residual_scale(settings["residual_multiplier"])
    writer.add_logit_scale(settings["logits_scaling"])


def _add_starcoder2(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    _add_common(writer, settings)
    writer.add_layer_norm_eps(settings["norm_epsilon"])


def _add_gpt2(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    writer.add_block_count(settings["n_layer"])
    writer.add_context_length(settings["n_positions"])
    writer.add_embedding_length(settings["n_embd"])
    writer.add_feed_forward_length(4 * settings["n_embd"])
    writer.add_head_count(settings["n_head"])
    writer.add_layer_norm_eps(1e-5)


def _add_gptneox(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    _add_common(writer, settings | {"num_key_value_heads": settings["num_attention_heads"]})
    writer.add_layer_norm_eps(settings["layer_norm_eps"])
    writer.add_rope_dimension_count(int(settings["rotary_pct"] * _head_dim(settings)))
    writer.add_parallel_residual(settings.get("use_parallel_residual", True))


def _add_falcon(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    inner = settings.get("ffn_hidden_size", 4 * settings["hidden_size"])
    kv_heads = settings.get("num_kv_heads", 1)
    _add_common(
        writer,
        settings | {"max_position_embeddings": 2048, "intermediate_size": inner, "num_key_value_heads": kv_heads},
    )
    writer.add_layer_norm_eps(1e-5)
    writer.add_tensor_data_layout("jploski")


def _head_dim(settings: Mapping[str, Any]) -> int:
    return int(settings.get("head_dim", settings["hidden_size"] // settings["num_attention_heads"]))


_ADD_SIZES: dict[str, Callable[[GGUFWriter, Mapping[str, Any]], None]] = {
    "llama": _add_llama,
    "qwen2": _add_rms,
    "qwen3": _add_rms,
    "gemma": _add_rms,
    "gemma3": _add_gemma3,
    "phi3": _add_phi3,
    "granite": _add_granite,
    "smollm3": _add_llama,
    "olmo2": _add_rms,
    "starcoder2": _add_starcoder2,
    "gpt2": _add_gpt2,
    "gptneox": _add_gptneox,
    "falcon": _add_falcon,
}
