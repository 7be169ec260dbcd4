"""What the text half knows of a model: tokenizer, special ids, names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranvier.errors import ModelError
from ranvier.text import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelText:
    """`eos_token_ids`: every id that ends a generation. `model_id` and `model_sha` as `/info` shows them."""

    tokenizer: Tokenizer
    eos_token_ids: frozenset[int]
    model_id: str
    model_sha: str | None


def load_model_text(directory: Path, model_id: str, model_sha: str | None) -> ModelText:
    """Read an artifact's text files. Raises `ModelError` when the tokenizer is missing or damaged."""
    tokenizer = Tokenizer.from_file(directory / "tokenizer.json")
    return ModelText(
        tokenizer=tokenizer,
        eos_token_ids=_eos_token_ids(directory, tokenizer),
        model_id=model_id,
        model_sha=model_sha,
    )


def _eos_token_ids(directory: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokenizer's own end token and all that the generation config names; the model config if neither does."""
    ids = _ids(_read(directory / "generation_config.json").get("eos_token_id"))
    name = _read(directory / "tokenizer_config.json").get("eos_token")
    text = name.get("content") if isinstance(name, dict) else name
    if isinstance(text, str) and (own := tokenizer.token_id(text)) is not None:
        ids |= {own}
    return frozenset(ids or _ids(_read(directory / "config.json").get("eos_token_id")))


def _ids(value: object) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {item for item in values if isinstance(item, int) and not isinstance(item, bool)}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is needed")
    return value
