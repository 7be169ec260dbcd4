"""A request as the engine sees it: token ids and numbers, no text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. The defaults mean greedy and no logits processor.

    * `do_sample`: draw from the distribution; False takes the most likely token.
    * `temperature` > 0; `top_k` >= 0 with 0 = off; `top_p`, `typical_p` in (0, 1] with 1 = off.
    * `repetition_penalty` > 0 with 1 = off; `frequency_penalty`, `presence_penalty` in [-2, 2] with 0 = off.
    * `seed` in [0, 2**64): key of the request's random numbers; used only when sampling.
    * `top_n_tokens`: how many of the most likely tokens are reported beside the chosen one.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    top_n_tokens: int = 0

    @property
    def needs_history(self) -> bool:
        """Whether a logits processor depends on the tokens so far."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One prompt with its parameters.

    `prompt_ids` is not empty and, with `max_new_tokens` >= 1, fits the artifact's sequence length. Generation ends
    after `max_new_tokens` or with the first of `eos_token_ids`, which is reported as a token.

    * `grammar`: text of `ranvier.grammar` that the output must match; the router has compiled it once already.
    * `wants_prompt_logprobs`: report how likely each prompt token was, in a `PromptEvent`.
    * `adapter`: name of the LoRA adapter to use, one of `Capabilities.adapters`; None for the model itself.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    sampling: SamplingParams
    grammar: str | None = None
    wants_prompt_logprobs: bool = False
    adapter: str | None = None
