"""What the config classes of transformers make of a config.json, and what of it differs from their base class.

optimum-neuron computes its digests from `PretrainedConfig.to_diff_dict()` of transformers 4.57: a config.json read into
its class (which fills in arguments and derives some fields), minus the fields that have the base class's default. That
is done here for the causal families of optimum-neuron 0.4.5, from a stored table of defaults and one function for each
derived field. Sources: transformers 4.57.6 `configuration_utils.py` and `models/*/configuration_*.py`.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ranvier.errors import ArtifactError

Json = dict[str, object]

_TEXT_PARTS = {"llama4": "llama4_text"}
"""Model types whose `text_config` is served, and that part's type."""
_DTYPES = {"half": "float16", "float": "float32", "double": "float64"}
"""Other names that torch has."""
_DROPPED = ("_auto_class", "_commit_hash", "_attn_implementation_internal", "base_model_tp_plan", "base_model_pp_plan")
_NO_FIELDS = ("torch_dtype", "name_or_path", "attn_implementation", "_attn_implementation", "transformers_version")
"""Keys that the class reads and keeps under no name of its own."""


@dataclass(frozen=True, slots=True)
class _Family:
    arguments: Json
    consumed: Json
    fixed: Json
    unlike_base: Json


def covered_types() -> tuple[str, ...]:
    """The `model_type`s whose digests can be computed."""
    return tuple(sorted([*_tables()[1], *_TEXT_PARTS]))


def config_diff(config: Mapping[str, object]) -> Json:
    """The fields that transformers 4.57.6 would write for this config.json, its text part if the model has several.

    Raises `ArtifactError` for a model type outside `covered_types` and for a config that the class cannot take.
    """
    text = _text_part(config)
    base, families = _tables()
    model_type = text.get("model_type")
    if not isinstance(model_type, str) or model_type not in families:
        raise ArtifactError(
            f"config.json: `model_type` is {model_type!r}; optimum-neuron has causal models for "
            f"{', '.join(covered_types())}"
        )
    family = families[model_type]
    try:
        fields = _as_class(text, model_type, family, base)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise ArtifactError(f"config.json: cannot be read as a {model_type} config: {error!r}") from None
    defaults = base | family.unlike_base
    return {name: value for name, value in fields.items() if name not in base or _differs(name, value, base, defaults)}


def _differs(name: str, value: object, base: Json, defaults: Json) -> bool:
    return value != base[name] or value != defaults[name]


@functools.cache
def _tables() -> tuple[Json, dict[str, _Family]]:
    text = importlib.resources.files(__package__).joinpath("config_defaults.json").read_text(encoding="utf-8")
    table = json.loads(text)
    base = _with_whole_labels(table["base"])
    return base, {name: _Family(**family) for name, family in table["families"].items()}


def _text_part(config: Mapping[str, object]) -> Json:
    model_type = config.get("model_type")
    if model_type not in _TEXT_PARTS:
        return dict(config)
    text = config.get("text_config")
    return {**(text if isinstance(text, Mapping) else {}), "model_type": _TEXT_PARTS[str(model_type)]}


def _as_class(config: Json, model_type: str, family: _Family, base: Json) -> Json:
    """All fields that an object of the class has, as `to_dict` gives them."""
    given = {**family.arguments, **family.consumed, **config}
    for derive in _DERIVED.get(model_type, ()):
        derive(given)
    own = {name: value for name, value in given.items() if name not in family.consumed}
    fields = {**base, **_common(own), **family.fixed, "model_type": model_type}
    return _cleaned(fields)


def _common(fields: Json) -> Json:
    """What the base class makes of its own arguments."""
    dtype = fields.get("dtype") or fields.get("torch_dtype")
    kept = {name: value for name, value in fields.items() if name not in (*_NO_FIELDS, "dtype", "num_labels")}
    kept["dtype"] = _DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if kept.get("pruned_heads", ()) is None:
        kept["pruned_heads"] = {}
    if kept.get("id2label") is not None:
        # The class takes no map from labels where it is given the other one alone.
        kept.setdefault("label2id", None)
        return _with_whole_labels(kept)
    labels = [f"LABEL_{index}" for index in range(_whole(fields.get("num_labels"), 2))]
    return {
        **kept,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _with_whole_labels(fields: Json) -> Json:
    labels = fields["id2label"]
    if not isinstance(labels, Mapping):
        raise TypeError("`id2label` is no object")
    return {**fields, "id2label": {int(index): label for index, label in labels.items()}}


def _cleaned(fields: Mapping[str, object]) -> Json:
    """Without what is never written, in nested objects too."""
    kept: Json = {name: _cleaned(value) if isinstance(value, dict) else value for name, value in fields.items()}
    if "_output_attentions" in kept:
        kept["output_attentions"] = kept.pop("_output_attentions")
    return {name: value for name, value in kept.items() if name not in _DROPPED}


def _whole(value: object, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(fields: Json, name: str) -> int:
    value = fields[name]
    if not isinstance(value, int):
        raise TypeError(f"`{name}` is {value!r}, no whole number")
    return value


def _key_value_heads(fields: Json) -> None:
    if fields["num_key_value_heads"] is None:
        fields["num_key_value_heads"] = fields["num_attention_heads"]


def fill_head_dim(fields: Json) -> None:
    """Set `head_dim` where it is there and null, as some classes do and every export does."""
    if fields.get("head_dim", 0) is None:
        fields["head_dim"] = _number(fields, "hidden_size") // _number(fields, "num_attention_heads")


def _rope_type(fields: Json) -> None:
    """The older key `type` gets a copy under its newer name."""
    scaling = fields["rope_scaling"]
    if isinstance(scaling, Mapping) and "type" in scaling:
        fields["rope_scaling"] = {**scaling, "rope_type": scaling["type"]}


def _longrope(fields: Json) -> None:
    scaling = fields["rope_scaling"]
    if isinstance(scaling, Mapping) and scaling.get("type") in ("su", "yarn"):
        fields["rope_scaling"] = {**scaling, "type": "longrope"}


def _window(fields: Json) -> None:
    if not fields["use_sliding_window"]:
        fields["sliding_window"] = None


def _qwen_layers(fields: Json) -> None:
    if fields["layer_types"] is None:
        first = _number(fields, "max_window_layers") if fields["sliding_window"] is not None else None
        layers = range(_number(fields, "num_hidden_layers"))
        fields["layer_types"] = [_attention(first is not None and layer >= first, "sliding") for layer in layers]


def _attention(is_special: bool, special: str) -> str:
    return f"{special if is_special else 'full'}_attention"


def _rope_layers(fields: Json) -> None:
    """1 for a layer with rotary embedding, 0 for every n-th, which has none."""
    # llama4 takes an empty list for none, smollm3 has no such rule.
    is_given = fields["no_rope_layers"] is not None
    if is_given and not (fields["model_type"] == "llama4_text" and not fields["no_rope_layers"]):
        return
    interval = _number(fields, "no_rope_layer_interval")
    layers = range(_number(fields, "num_hidden_layers"))
    fields["no_rope_layers"] = [int((layer + 1) % interval != 0) for layer in layers]


def _flags(fields: Json) -> list[object]:
    flags = fields["no_rope_layers"]
    if not isinstance(flags, list):
        raise TypeError("`no_rope_layers` is no list")
    return flags


def _smollm3_layers(fields: Json) -> None:
    if fields["layer_types"] is None:
        has_window = bool(fields["use_sliding_window"]) and fields["sliding_window"] is not None
        flags = _flags(fields)[: _number(fields, "num_hidden_layers")]
        fields["layer_types"] = [_attention(has_window and not flag, "sliding") for flag in flags]


def _llama4_layers(fields: Json) -> None:
    if fields["layer_types"] is None:
        fields["layer_types"] = [_attention(bool(flag), "chunked") for flag in _flags(fields)]
    if fields["moe_layers"] is None:
        step = _number(fields, "interleave_moe_layer_step")
        fields["moe_layers"] = list(range(step - 1, _number(fields, "num_hidden_layers"), step))


def _dense_layers(fields: Json) -> None:
    if fields["mlp_only_layers"] is None:
        fields["mlp_only_layers"] = []


_DERIVED: Mapping[str, tuple[Callable[[Json], None], ...]] = {
    "granite": (_key_value_heads,),
    "llama": (_key_value_heads, fill_head_dim, _rope_type),
    "llama4_text": (_key_value_heads, fill_head_dim, _rope_layers, _llama4_layers),
    "mixtral": (_key_value_heads,),
    "phi3": (_key_value_heads, _longrope),
    "qwen2": (_key_value_heads, _rope_type, _window, _qwen_layers),
    "qwen3": (_key_value_heads, _rope_type, _window, _qwen_layers),
    "qwen3_moe": (_rope_type, _window, _dense_layers),
    "smollm3": (_key_value_heads, _rope_type, _rope_layers, _smollm3_layers),
}
