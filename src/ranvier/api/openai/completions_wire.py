"""Body of `/v1/completions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from msgspec import Meta, Struct

from ranvier.api.openai.chat_wire import StreamOptions
from ranvier.api.openai.shared import num_choices, refuse_logit_bias, stop_strings
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
        if kinds == {int} and not all(0 <= item < 2**32 for item in self.prompt):  # type: ignore[operator]
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
        prompts = [self.prompt] if self._is_single else list(self.prompt)
        if len(prompts) > max_prompts:
            raise BatchSizeError(max_prompts)
        return [
            Prompt(text=prompt) if isinstance(prompt, str) else Prompt(text="", token_ids=tuple(prompt))  # type: ignore[arg-type]
            for prompt in prompts
        ]

    @property
    def _is_single(self) -> bool:
        return isinstance(self.prompt, str) or isinstance(self.prompt[0], int)

    def to_parameters(self) -> GenerateParameters:
        """The rest. Raises `ValidationError` for what cannot be honoured."""
        refuse_logit_bias(self.logit_bias)
        self._check_best_of()
        is_greedy = self.temperature == 0
        parameters = GenerateParameters(
            do_sample=not is_greedy,
            is_greedy=is_greedy,
            temperature=None if is_greedy else self.temperature,
            top_p=None if self.top_p == 1 else self.top_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=self.max_tokens,
            stop=stop_strings(self.stop),
            seed=self.seed,
            top_n_tokens=self.logprobs,
            decoder_input_details=bool(self.echo) and self.logprobs is not None,
        )
        return replace(parameters, best_of=self.best_of) if self.best_of != self.num_choices else parameters

    def _check_best_of(self) -> None:
        if self.best_of is not None and self.best_of < self.num_choices:
            raise ValidationError(f"`best_of` must be >= `n`, {self.num_choices}. Given: {self.best_of}")
        if self.stream and (self.best_of or 1) > self.num_choices:
            raise ValidationError("`best_of` > `n` is not supported when streaming tokens")
        if self.stream and self.echo and self.logprobs is not None:
            raise ValidationError("`echo` with `logprobs` is not supported when streaming tokens")
