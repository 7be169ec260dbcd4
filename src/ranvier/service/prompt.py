"""What a request wants continued."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text, or token ids, which then count instead.

    `add_special_tokens`: whether the tokenizer puts its BOS and the like around the text; a chat template has done so
    already.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    add_special_tokens: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to continue."""
        return not (self.text if self.token_ids is None else self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a request comes from, for logs and traces: headers as they came, or None."""

    request_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


NO_ORIGIN = Origin()
