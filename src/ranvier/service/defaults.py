"""Sampling parameters that a model's authors recommend: `generation_config.json`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ranvier.core import Capabilities
from ranvier.errors import ModelError
from ranvier.service.parameters import GenerateParameters
from ranvier.text import read_json_object

_NAMES = ("temperature", "top_k", "top_p", "typical_p", "repetition_penalty")
_OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What holds where a request says nothing; None is off. Ranges as in `SamplingParams`."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None

    def applied(self, parameters: GenerateParameters) -> GenerateParameters:
        """The parameters with what they leave open; the penalty always, the rest where tokens are drawn."""
        names = _NAMES if parameters.samples else ("repetition_penalty",)
        absent = {name: getattr(self, name) for name in names if getattr(parameters, name) is None}
        return replace(parameters, **absent) if absent else parameters

    def honoured_by(self, capabilities: Capabilities) -> tuple[SamplingDefaults, tuple[str, ...]]:
        """Those that an engine can do, and the names of the others, for which no request should be refused."""
        dropped = [name for name in _NAMES if getattr(self, name) is not None and name not in capabilities.parameters]
        if self.top_k is not None and "top_k" not in dropped and self.top_k > capabilities.max_top_k:
            dropped.append("top_k")
        kept = {name: None if name in dropped else getattr(self, name) for name in _NAMES}
        return SamplingDefaults(**kept), tuple(dropped)


def read_sampling_defaults(directory: Path) -> SamplingDefaults:
    """Those of a model's `generation_config.json`; all off without one. Raises `ModelError` for a bad value."""
    path = directory / "generation_config.json"
    values = read_json_object(path)
    return SamplingDefaults(**{name: _value(path, name, values.get(name)) for name in _NAMES})


def _value(path: Path, name: str, value: object) -> Any:
    if value is None or value == _OFF[name]:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_in_range(name, value):
        return value if name == "top_k" else float(value)
    raise ModelError(f"{path}: `{name}` cannot be {value!r}; correct it, or give `--sampling-defaults none`")


def _is_in_range(name: str, value: float) -> bool:
    if name == "top_k":
        return isinstance(value, int) and value > 0
    return 0 < value < 1 if name in ("top_p", "typical_p") else value > 0
