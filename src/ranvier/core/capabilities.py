"""What a target can do. Whatever it cannot is refused at admission, by name."""

from __future__ import annotations

from dataclasses import dataclass

ALL_PARAMETERS = frozenset(
    {
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "top_n_tokens",
        "grammar",
        "decoder_input_details",
        "best_of",
        "logprobs",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Declared by a target, read by the scheduler and by admission.

    * `mixed_steps`: one step may hold prefill chunks and decodes together.
    * `chunk_multiple`: prompts may be cut at multiples of this many tokens; 0 means never cut.
    * `prefix_sharing`: a slot may start from the KV rows that another slot has computed.
    * `parameters`: names of the request's parameters it honours (see `ALL_PARAMETERS`).
    * `max_top_k`: the largest `top_k`; a target with fewer candidates than the vocabulary has one.
    * `max_top_n_tokens`: the most likely tokens that it can report beside the chosen one.
    * `adapters`: names of the LoRA adapters that are loaded; a request may use one of them.
    """

    mixed_steps: bool
    chunk_multiple: int
    prefix_sharing: bool
    parameters: frozenset[str] = ALL_PARAMETERS
    max_top_k: int = 2**32 - 1
    max_top_n_tokens: int = 2**32 - 1
    adapters: tuple[str, ...] = ()
