"""TGI's names of weight formats in ours.

`eetq` and `bitsandbytes` round to 8 bits while loading: that is `int8` here. The names of formats that a checkpoint has
been written in ask for nothing more than to load it as it is: `auto`, once it is known that it is written so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ranvier.artifacts import ModelSource
from ranvier.errors import OptionError

_ROUNDED = {"eetq": "int8", "bitsandbytes": "int8"}
_WRITTEN = frozenset({"awq", "gptq", "fp8", "compressed-tensors"})


def our_format(quantize: str) -> str:
    """The value of `--quantize` that artifacts know."""
    return "auto" if quantize in _WRITTEN else _ROUNDED.get(quantize, quantize)


def check_format(quantize: str, source: ModelSource) -> None:
    """Raise `OptionError` when a checkpoint is not written in the format that was named."""
    if quantize not in _WRITTEN:
        return
    found = _method(source)
    if found != quantize:
        written = f"its weights are written as {found}" if found else "its weights are not quantized"
        raise OptionError(
            f"`quantize` {quantize} is for checkpoints in that format, and of {source.model_id} {written}; "
            "leave the option out, or give `int8` or `int4` to round them"
        )


def _method(source: ModelSource) -> str | None:
    if source.kind != "checkpoint":
        return None
    config = _read(source.path / "config.json")
    for section in (config.get("quantization_config"), config.get("compression_config")):
        if isinstance(section, Mapping):
            return str(section.get("quant_method"))
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        # Whoever reads the model next says what is wrong with the file.
        return {}
    return value if isinstance(value, Mapping) else {}
