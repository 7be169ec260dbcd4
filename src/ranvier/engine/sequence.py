"""A request while the engine works on it."""

from __future__ import annotations

from ranvier.core import Constraint, EngineRequest
from ranvier.errors import GenerationError


class Sequence:
    """The one mutable object of a request. The engine owns it.

    `token_ids` is prompt and output; `num_computed` of them have their KV rows written. All but the last generated
    token are computed while decoding, so a sequence decodes when exactly one token is left to put through the model.

    A sequence with a grammar is held, outside the queue, until its `constraint` is compiled. `adapter` is the number of
    its adapter, see `Chunk`.
    """

    def __init__(self, request: EngineRequest, adapter: int = 0) -> None:
        self.request = request
        self.adapter = adapter
        self.token_ids = list(request.prompt_ids)
        self.num_computed = 0
        self.slot = -1
        self.is_held = request.grammar is not None
        self.constraint: Constraint | None = None
        self.prompt_logprobs: list[float] = []
        self.failure = "the model gave logits that are not finite"

    @property
    def num_prompt(self) -> int:
        """Prompt tokens."""
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        """Output tokens so far."""
        return len(self.token_ids) - self.num_prompt

    def allowed(self) -> bytes | None:
        """The mask of the next token; all clear when the grammar cannot go on, with the reason in `failure`."""
        if self.constraint is None:
            return None
        try:
            return self.constraint.allowed()
        except GenerationError as error:
            self.failure = str(error)
            return b""

    def scored_ids(self, length: int) -> tuple[int, ...]:
        """Of the next `length` tokens' successors those in the prompt, if their log-probabilities are wanted."""
        if not self.request.wants_prompt_logprobs:
            return ()
        return self.request.prompt_ids[self.num_computed + 1 : self.num_computed + 1 + length]

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is computed."""
        return self.num_computed >= self.num_prompt

    @property
    def num_prefill_left(self) -> int:
        """Prompt tokens that still have to be computed."""
        return max(0, self.num_prompt - self.num_computed)
