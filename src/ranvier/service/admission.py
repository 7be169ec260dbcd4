"""From a prompt and parameters to what the engine is asked for, or the reason why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ranvier.core import EngineClient
from ranvier.errors import ValidationError
from ranvier.observability import ServerMetrics
from ranvier.service.grammars import GrammarChecker
from ranvier.service.model_text import ModelText
from ranvier.service.parameters import (
    MAX_CHUNK_TOKENS,
    GenerateParameters,
    ServiceLimits,
    check_capabilities,
    check_prompt,
    check_values,
    settle_max_new_tokens,
)
from ranvier.service.prompt import Prompt

T = TypeVar("T")

_LONG_TEXT = 8192
"""Characters above which tokenizing would hold up the event loop for more than a millisecond or so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A prompt and parameters that keep to all rules, defaults filled in. `grammar` is the engine's text of it."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    grammar: str | None
    parameters: GenerateParameters


class Admission:
    """The rules over one model and engine. `num_workers` threads tokenize long texts."""

    def __init__(
        self,
        text: ModelText,
        engine: EngineClient,
        limits: ServiceLimits,
        metrics: ServerMetrics,
        grammars: GrammarChecker,
    ) -> None:
        self._text = text
        self._engine = engine
        self._limits = limits
        self._metrics = metrics
        self._grammars = grammars
        self._workers = ThreadPoolExecutor(limits.validation_workers, thread_name_prefix="tokenizer")

    async def accept(self, prompt: Prompt, parameters: GenerateParameters) -> Accepted:
        """Apply every rule in TGI's order. Raises `ValidationError` with the first that is broken."""
        info = self._engine.info
        if self._text.sampling_defaults is not None:
            parameters = self._text.sampling_defaults.applied(parameters)
        check_values(parameters, self._limits)
        check_prompt(prompt.is_empty, parameters, info.limits)
        prompt_ids = await self._prompt_ids(prompt)
        if parameters.truncate is not None:
            prompt_ids = prompt_ids[-parameters.truncate :]
        if not prompt_ids:
            raise ValidationError("`inputs` cannot be empty: it has no tokens")
        max_new_tokens = settle_max_new_tokens(len(prompt_ids), parameters, info.limits)
        self._metrics.input_length.observe(len(prompt_ids))
        check_capabilities(parameters, info.capabilities, info.target)
        grammar = None if parameters.grammar is None else await self._grammars.text_of(parameters.grammar)
        self._metrics.max_new_tokens.observe(min(max_new_tokens, MAX_CHUNK_TOKENS))
        return Accepted(prompt_ids=prompt_ids, max_new_tokens=max_new_tokens, grammar=grammar, parameters=parameters)

    async def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if prompt.token_ids is not None:
            self._check_ids(prompt.token_ids)
            return prompt.token_ids
        encode = partial(self._text.tokenizer.encode, prompt.text, add_special_tokens=prompt.add_special_tokens)
        return tuple(await self.off_loop(len(prompt.text), encode))

    def _check_ids(self, token_ids: tuple[int, ...]) -> None:
        vocab_size = self._text.tokenizer.vocab_size
        wrong = next((token_id for token_id in token_ids if not 0 <= token_id < vocab_size), None)
        if wrong is not None:
            raise ValidationError(f"`prompt` token ids must be >= 0 and < {vocab_size}. Given: {wrong}")

    async def off_loop(self, num_characters: int, work: Callable[[], T]) -> T:
        """Do work that grows with a text: here if it is short, else on a thread. Raises what `work` raises."""
        with self._metrics.tokenizing():
            if num_characters <= _LONG_TEXT:
                return work()
            return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def close(self) -> None:
        """Stop the threads."""
        self._workers.shutdown(wait=False)
        self._grammars.close()
