"""What the text half knows of a model: tokenizer, chat template, special ids, names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ranvier.service.defaults import SamplingDefaults, read_sampling_defaults
from ranvier.text import ChatTemplate, Tokenizer, load_chat_template, read_json_object


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelText:
    """`eos_token_ids`: every id that ends a generation. `model_id` and `model_sha` as `/info` shows them."""

    tokenizer: Tokenizer
    eos_token_ids: frozenset[int]
    model_id: str
    model_sha: str | None
    chat_template: ChatTemplate | None = None
    sampling_defaults: SamplingDefaults | None = None


def load_model_text(
    directory: Path,
    model_id: str,
    model_sha: str | None,
    tokenizer_config_path: Path | None = None,
    *,
    with_sampling_defaults: bool = False,
) -> ModelText:
    """Read an artifact's text files; `tokenizer_config_path` is looked into first for a chat template.

    Raises `ModelError` when the tokenizer is missing or a file is damaged, `OptionError` when the path is no file.
    """
    tokenizer = Tokenizer.from_file(directory / "tokenizer.json")
    return ModelText(
        tokenizer=tokenizer,
        eos_token_ids=_eos_token_ids(directory, tokenizer),
        model_id=model_id,
        model_sha=model_sha,
        chat_template=load_chat_template(directory, tokenizer_config_path),
        sampling_defaults=read_sampling_defaults(directory) if with_sampling_defaults else None,
    )


def _eos_token_ids(directory: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokenizer's own end token and all that the generation config names; the model config if neither does."""
    ids = _ids(read_json_object(directory / "generation_config.json").get("eos_token_id"))
    name = read_json_object(directory / "tokenizer_config.json").get("eos_token")
    text = name.get("content") if isinstance(name, dict) else name
    if isinstance(text, str) and (own := tokenizer.token_id(text)) is not None:
        ids |= {own}
    return frozenset(ids or _ids(read_json_object(directory / "config.json").get("eos_token_id")))


def _ids(value: object) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {item for item in values if isinstance(item, int) and not isinstance(item, bool)}
