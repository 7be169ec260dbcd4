"""`adapter_config.json` of a LoRA adapter, as PEFT writes it: ranks, scales, and which modules it is for.

Fields are those of `peft.LoraConfig`; https://huggingface.co/docs/peft/package_reference/lora says what each means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ranvier.errors import ModelError
from ranvier.models.checkpoint import read_json

_PLAIN_START = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the model's own weights as they are."""

_UNSUPPORTED: Mapping[str, str] = {
    "use_dora": "DoRA also scales the model's own weights; merge the adapter into the model",
    "use_qalora": "QA-LoRA pools its input; merge the adapter into the model",
    "lora_bias": "an adapter's own biases are not added; train it with `lora_bias` false",
    "modules_to_save": "whole modules are not replaced; train it without, or merge the adapter into the model",
    "trainable_token_indices": "embeddings are not adapted; train it without, or merge the adapter into the model",
    "target_parameters": "only whole modules are adapted; name them in `target_modules`",
    "layer_replication": "layers are not repeated; merge the adapter into the model",
    "alora_invocation_tokens": "adapters are on for the whole request; train a plain LoRA adapter",
}
"""Fields that change what an adapter computes, and what to do where one of them is set."""

_END = r"(.*\.)?({})$"
"""PEFT's rule for keys of patterns: the whole name matches, or its end behind a dot."""

_Number = TypeVar("_Number", int, float)
_Pattern = str | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What an adapter says of itself; modules are named as in the checkpoint, `model.layers.0.self_attn.q_proj`.

    `targets` and `excluded` are the ends of module names, or one regular expression for the whole name; `layers` are
    those that it is for, None all. Patterns map a regular expression for the end of a name to another rank or alpha.
    """

    rank: int
    alpha: float
    is_rank_stabilized: bool
    targets: _Pattern
    excluded: _Pattern
    layers: frozenset[int] | None
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """Rows of the module's `lora_A`."""
        return _patterned(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Factor on `B A`: alpha / r, or alpha / sqrt(r) where it is rank-stabilized (arXiv 2312.03732)."""
        rank, alpha = self.rank_of(module), _patterned(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def is_target(self, module: str, layer: int | None) -> bool:
        """Whether the adapter is for a module; `layer` is None outside of layers."""
        is_layer = self.layers is None or layer in self.layers
        return is_layer and _matches(self.targets, module) and not _matches(self.excluded, module)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read the file. Raises `ModelError` for damage, for other methods than LoRA and for what cannot be served."""
    return _Reader(read_json(path)).config()


class _Reader:
    """Fields with their checks; the messages name the field."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def config(self) -> AdapterConfig:
        self._check_method()
        config = AdapterConfig(
            rank=self._whole("r", self._values.get("r")),
            alpha=self._number("lora_alpha", self._values.get("lora_alpha", 8)),
            is_rank_stabilized=self._values.get("use_rslora") is True,
            targets=self._targets("target_modules"),
            excluded=self._targets("exclude_modules"),
            layers=self._layers(),
            rank_pattern={key: self._whole("rank_pattern", value) for key, value in self._table("rank_pattern")},
            alpha_pattern={key: self._number("alpha_pattern", value) for key, value in self._table("alpha_pattern")},
        )
        if not config.targets:
            raise ModelError("`target_modules` is missing or empty; name the modules that the adapter is for")
        return config

    def _check_method(self) -> None:
        method, bias = self._values.get("peft_type"), self._values.get("bias", "none")
        if method != "LORA":
            raise ModelError(f"`peft_type` is {method!r}; only LORA adapters can be served")
        if bias != "none":
            raise ModelError(f"`bias` is {bias!r}: the model's own biases are not replaced; train it with `bias` none")
        for field, reason in _UNSUPPORTED.items():
            if self._values.get(field):
                raise ModelError(f"`{field}` is set: {reason}")
        for field, value in self._values.items():
            if field.startswith("use_") and field != "use_rslora" and value:
                raise ModelError(
                    f"`{field}` is set: a kind of LoRA that is not known; merge the adapter into the model"
                )
        start = self._values.get("init_lora_weights")
        if start not in _PLAIN_START:
            raise ModelError(
                f"`init_lora_weights` is {start!r}, which changes the model's own weights; save the adapter with "
                "`path_initial_model_for_weight_conversion`, or merge it into the model"
            )

    def _whole(self, field: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"`{field}` must be a whole number of 1 or more. Given: {value!r}")
        return value

    def _number(self, field: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ModelError(f"`{field}` must be a number. Given: {value!r}")
        return float(value)

    def _table(self, field: str) -> list[tuple[str, object]]:
        table = self._values.get(field) or {}
        if not isinstance(table, Mapping):
            raise ModelError(f"`{field}` must be an object. Given: {table!r}")
        for key in table:
            _check_expression(field, str(key))
            _check_expression(field, _END.format(key))
        return [(str(key), value) for key, value in table.items()]

    def _targets(self, field: str) -> _Pattern:
        given = self._values.get(field)
        if given == "all-linear":
            # Every matrix that we have names for is one of a linear module.
            return ".*"
        if isinstance(given, str):
            _check_expression(field, given)
            return given
        if given is None:
            return ()
        if isinstance(given, list) and all(isinstance(item, str) for item in given):
            return tuple(sorted(given))
        raise ModelError(f"`{field}` must be a list of names or a regular expression. Given: {given!r}")

    def _layers(self) -> frozenset[int] | None:
        given = self._values.get("layers_to_transform")
        if given is None:
            return None
        layers = given if isinstance(given, list) else [given]
        if not all(isinstance(layer, int) for layer in layers):
            raise ModelError(f"`layers_to_transform` must be layer numbers. Given: {given!r}")
        # An empty list is what older files have for all layers.
        return frozenset(layers) or None


def _check_expression(field: str, text: str) -> None:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ModelError(f"`{field}` holds {text!r}, which is no regular expression: {error}") from None


def _matches(pattern: _Pattern, module: str) -> bool:
    if isinstance(pattern, str):
        return re.fullmatch(pattern, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in pattern)


def _patterned(table: Mapping[str, _Number], module: str, default: _Number) -> _Number:
    """The value of the first key that matches."""
    return next((value for key, value in table.items() if re.match(_END.format(key), module)), default)
