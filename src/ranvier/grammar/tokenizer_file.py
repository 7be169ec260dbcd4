"""A `tokenizer.json` for llguidance, in which no text spells a special token.

Where a grammar forces text, llguidance allows only the token that the tokenizer would choose for it. If the text holds
`<|im_end|>`, from an `enum` for example, the tokenizer chooses the special token: the output would end there, or lose
that text. So special tokens get names that nobody writes, and such text is made of ordinary tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_NAME = "\U0010fffd{}\U0010fffe"
"""The last two are not for exchange: the first is for private use, the second is no character."""


def with_hidden_specials(path: Path, end_ids: frozenset[int]) -> tuple[str, frozenset[int]]:
    """The text of the file with its special tokens renamed, and the end tokens. All tokens keep their ids.

    End tokens that the tokenizer has no text for, which models may have, are added; without any `end_ids`, one is made
    up beyond the others. Raises OSError, ValueError, LookupError, TypeError or AttributeError if it is no such file.
    """
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    added, model = tokenizer["added_tokens"], tokenizer["model"]
    num_ids = 1 + max((*_ids(model["vocab"]), *(token["id"] for token in added)), default=-1)
    names = {token["content"]: _NAME.format(token["id"]) for token in added if token["special"]}
    for token in added:
        token["content"] = names.get(token["content"], token["content"])
    model["vocab"] = _renamed(model["vocab"], names)
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    end_ids = end_ids or frozenset({num_ids})
    added += (_special(token_id) for token_id in range(num_ids, max(end_ids) + 1))
    return json.dumps(tokenizer, ensure_ascii=False), end_ids


def _special(token_id: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": _NAME.format(token_id), "special": True, **flags}


def _ids(vocabulary: Any) -> Iterable[int]:
    return vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))


def _renamed(vocabulary: Any, names: dict[str, str]) -> Any:
    """Byte-pair models map pieces to ids; unigram models list pieces with their scores."""
    if isinstance(vocabulary, dict):
        return {names.get(piece, piece): token_id for piece, token_id in vocabulary.items()}
    return [[names.get(piece, piece), *score] for piece, *score in vocabulary]
