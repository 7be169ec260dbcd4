"""Body of `/v1/completions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from msgspec import Meta, Struct

from ranvier.api.openai.chat_wire import StreamOptions
from ranvier.api.openai.shared import num_choices, sampling_parameters
from ranvier.api.wire import U32, U64, check_u64
from ranvier.errors import BatchSizeError, SuffixError, ValidationError
from ranvier.service import GenerateParameters, Prompt

TokenIds = Annotated[tuple[U32, ...], Meta(min_length=1)]
# One union holds one kind of list, so the three kinds are told apart in `to_prompts`.
PromptList = Annotated[tuple[str | int | TokenIds, ...], Meta(min_length=1)]


class CompletionRequest(Struct, frozen=True):
    """A text or token ids to continue, or several of either."""

    prompt: str | PromptList
    model: str | None = None
    max_tokens: U32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: U64 | None = None
    stop: str | tuple[str, ...] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    echo: bool | None = False
    logprobs: U32 | None = None
    n: U32 | None = None
    best_of: U32 | None = None
    logit_bias: dict[str, float] | list[float] | None = None

    def __post_init__(self) -> None:
        check_u64(self, "seed")
        kinds = set() if isinstance(self.prompt, str) else {type(item) for item in self.prompt}
        if len(kinds) > 1:
            raise ValueError("Expected only strings, only token ids or only lists of token ids - at `$.prompt`")
        if not all(0 <= item < 2**32 for item in self.prompt if isinstance(item, int)):
            raise ValueError("Expected token ids >= 0 and < 2**32 - at `$.prompt`")

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the sum of its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def num_choices(self) -> int:
        """How many texts are wanted for each prompt. Raises `ValidationError` for none."""
        return num_choices(self.n)

    def to_prompts(self, max_prompts: int) -> list[Prompt]:
        """The prompts. Raises `BatchSizeError` for too many, `SuffixError` where a suffix is given."""
        if self.suffix is not None:
            raise SuffixError
        prompts = self._prompts()
        if len(prompts) > max_prompts:
            raise BatchSizeError(max_prompts)
        return prompts

    def _prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str):
            return [Prompt(text=self.prompt)]
        ids = tuple(item for item in self.prompt if isinstance(item, int))
        if ids:
            return [Prompt(text="", token_ids=ids)]
        return [
            Prompt(text=item) if isinstance(item, str) else Prompt(text="", token_ids=item)
            for item in self.prompt
            if not isinstance(item, int)
        ]

    def to_parameters(self) -> GenerateParameters:
        """The rest. Raises `ValidationError` for what cannot be honoured."""
        self._check_best_of()
        return replace(
            sampling_parameters(self),
            max_new_tokens=self.max_tokens,
            top_n_tokens=self.logprobs,
            logprobs=self.logprobs is not None,
            decoder_input_details=bool(self.echo) and self.logprobs is not None,
            best_of=self.best_of if self.best_of != self.num_choices else None,
        )

    def _check_best_of(self) -> None:
        if self.best_of is not None and self.best_of < self.num_choices:
            raise ValidationError(f"`best_of` must be >= `n`, {self.num_choices}. Given: {self.best_of}")
        if self.stream and (self.best_of or 1) > self.num_choices:
            raise ValidationError("`best_of` > `n` is not supported when streaming tokens")
        if self.stream and self.echo and self.logprobs is not None:
            raise ValidationError("`echo` with `logprobs` is not supported when streaming tokens")
