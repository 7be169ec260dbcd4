"""A request while the engine works on it."""

from __future__ import annotations

from ranvier.core import EngineRequest


class Sequence:
    """The one mutable object of a request. The engine owns it.

    `token_ids` is prompt and output; `num_computed` of them have their KV rows written. All but the last generated
    token are computed while decoding, so a sequence decodes when exactly one token is left to put through the model.
    """

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.token_ids = list(request.prompt_ids)
        self.num_computed = 0
        self.slot = -1

    @property
    def num_prompt(self) -> int:
        """Prompt tokens."""
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        """Output tokens so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is computed."""
        return self.num_computed >= self.num_prompt

    @property
    def num_prefill_left(self) -> int:
        """Prompt tokens that still have to be computed."""
        return max(0, self.num_prompt - self.num_computed)
