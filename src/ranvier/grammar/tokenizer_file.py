"""A `tokenizer.json` for llguidance, in which no text spells a special token.

Where a grammar forces text, llguidance allows only the token that the tokenizer would choose for it. If the text holds
`<|im_end|>`, from an `enum` for example, the tokenizer chooses the special token: the output would end there, or lose
that text. So special tokens get names that no text contains, and such text is made of ordinary tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_NAME = "\U0010fffd{}\U0010fffe"
"""The last two are not for exchange: the first is for private use, the second is no character."""


def with_hidden_specials(path: Path) -> str:
    """The text of the file with its special tokens renamed; ids stay. Raises OSError, ValueError or LookupError."""
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    specials = [token for token in tokenizer["added_tokens"] if token["special"]]
    names = {token["content"]: _NAME.format(token["id"]) for token in specials}
    for token in specials:
        token["content"] = names[token["content"]]
    model = tokenizer["model"]
    model["vocab"] = _renamed(model["vocab"], names)
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    return json.dumps(tokenizer, ensure_ascii=False)


def _renamed(vocabulary: Any, names: dict[str, str]) -> Any:
    """Byte-pair models map pieces to ids; unigram models list pieces with their scores."""
    if isinstance(vocabulary, dict):
        return {names.get(piece, piece): token_id for piece, token_id in vocabulary.items()}
    return [[names.get(piece, piece), *score] for piece, *score in vocabulary]
