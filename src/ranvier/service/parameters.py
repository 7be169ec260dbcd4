"""The parameters of one generation, and TGI's rules for them.

Order and texts follow TGI's validation: the first failure wins, clients compare the texts.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal

from ranvier.core import Capabilities, Limits, SamplingParams
from ranvier.errors import ValidationError

MAX_CHUNK_TOKENS = 1024
"""TGI checks and reports at most this many new tokens, however many were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """What the operator allows; all counts."""

    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_client_batch_size: int = 4
    validation_workers: int = 2


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must match.

    * `json`: a JSON Schema with `properties` at its top, as an object or as the text of one.
    * `schema`: any JSON Schema, as an object.
    * `regex`: a regular expression for the whole output.
    """

    kind: Literal["json", "schema", "regex"]
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateParameters:
    """TGI's `GenerateParameters` as they came, None where absent, and what the OpenAI API adds.

    `presence_penalty`; `is_greedy`: the most likely token always, whatever else says how to draw one; `logprobs`: the
    reply is to hold log-probabilities.
    """

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None
    is_greedy: bool = False
    logprobs: bool = False

    @property
    def num_sequences(self) -> int:
        """Generations to make: `best_of`, where 0 means 1."""
        return max(1, self.best_of or 1)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: asked for, or implied by a parameter that only matters then."""
        return not self.is_greedy and (
            self.do_sample
            or self.temperature not in (None, 1.0)
            or any(value is not None for value in (self.top_k, self.top_p, self.typical_p))
        )


def check_streamable(parameters: GenerateParameters) -> None:
    """What a stream cannot give; before a permit is taken. Raises `ValidationError`."""
    if parameters.best_of not in (None, 1):
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if parameters.decoder_input_details:
        raise ValidationError("`decoder_input_details` == true is not supported when streaming tokens")


def check_best_of(parameters: GenerateParameters, limits: ServiceLimits) -> None:
    """How many sequences a request may ask for; before permits are taken. Raises `ValidationError`."""
    best_of = parameters.best_of
    if best_of is not None and best_of > 1 and limits.max_best_of == 1:
        raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
    if best_of is not None and best_of > limits.max_best_of:
        raise ValidationError(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}")


def check_values(parameters: GenerateParameters, limits: ServiceLimits) -> None:
    """Every rule that needs neither the prompt nor the model. Raises `ValidationError`."""
    if parameters.num_sequences > 1 and not _asks_for_sampling(parameters):
        raise ValidationError("you must use sampling when `best_of` is > 1")
    _check_ranges(parameters)
    if parameters.max_new_tokens == 0:
        raise ValidationError("`max_new_tokens` must be strictly positive")
    if len(parameters.stop) > limits.max_stop_sequences:
        raise ValidationError(
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {len(parameters.stop)}"
        )
    if parameters.seed is not None and parameters.num_sequences > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1")
    top_n = parameters.top_n_tokens or 0
    if top_n > limits.max_top_n_tokens:
        raise ValidationError(f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top_n}")


def _asks_for_sampling(parameters: GenerateParameters) -> bool:
    given = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    return parameters.do_sample or any(value is not None for value in given)


def _check_ranges(parameters: GenerateParameters) -> None:
    for name in ("temperature", "repetition_penalty"):
        value = getattr(parameters, name)
        if value is not None and not value > 0:
            raise ValidationError(f"`{name}` must be strictly positive")
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(parameters, name)
        if value is not None and not -2.0 <= value <= 2.0:
            raise ValidationError(f"`{name}` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        value = getattr(parameters, name)
        if value is not None and not 0.0 < value < 1.0:
            raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")


def check_prompt(is_empty: bool, parameters: GenerateParameters, limits: Limits) -> None:
    """The rules about the text itself, before it is tokenized. Raises `ValidationError`."""
    if is_empty:
        raise ValidationError("`inputs` cannot be empty")
    truncate = parameters.truncate
    if truncate is not None and not 0 < truncate <= limits.max_input_tokens:
        raise ValidationError(
            f"`truncate` must be strictly positive and less than {limits.max_input_tokens}. Given: {truncate}"
        )


def settle_max_new_tokens(num_input: int, parameters: GenerateParameters, limits: Limits) -> int:
    """How many tokens the engine may generate. Raises `ValidationError` when prompt and output do not fit.

    A larger number than fits is accepted when at least `MAX_CHUNK_TOKENS` fit, and then cut, as TGI does.
    """
    total = limits.sequence_length
    asked = parameters.max_new_tokens
    if asked is None:
        asked = max(0, total - num_input)
    chunk = min(asked, MAX_CHUNK_TOKENS)
    if num_input + chunk > total:
        raise ValidationError(
            f"`inputs` tokens + `max_new_tokens` must be <= {total}. "
            f"Given: {num_input} `inputs` tokens and {chunk} `max_new_tokens`"
        )
    if num_input > limits.max_input_tokens:
        raise ValidationError(f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {num_input}")
    return min(asked, total - num_input)


def check_capabilities(parameters: GenerateParameters, capabilities: Capabilities, target: str) -> None:
    """Refuse what would otherwise have no effect. Raises `ValidationError` that names the parameter."""
    refused = {"watermark": parameters.watermark}
    used = {
        "temperature": parameters.temperature not in (None, 1.0),
        "top_k": parameters.top_k is not None,
        "top_p": parameters.top_p is not None,
        "typical_p": parameters.typical_p is not None,
        "repetition_penalty": parameters.repetition_penalty not in (None, 1.0),
        "frequency_penalty": parameters.frequency_penalty not in (None, 0.0),
        "presence_penalty": parameters.presence_penalty not in (None, 0.0),
        "decoder_input_details": parameters.decoder_input_details,
        "seed": parameters.seed is not None,
        "top_n_tokens": bool(parameters.top_n_tokens),
        "best_of": parameters.num_sequences > 1,
        "logprobs": parameters.logprobs,
    }
    refused |= {name: is_used and name not in capabilities.parameters for name, is_used in used.items()}
    for name, is_refused in refused.items():
        if is_refused:
            raise _unsupported(name, target)
    if parameters.adapter_id is not None:
        _check_adapter(parameters.adapter_id, capabilities.adapters)
    if parameters.grammar is not None and "grammar" not in capabilities.parameters:
        # TGI's words, as where the operator has switched grammars off.
        raise ValidationError("grammar is not supported")
    if (parameters.top_k or 0) > capabilities.max_top_k:
        raise ValidationError(f"`top_k` must be > 0 and <= {capabilities.max_top_k}. Given: {parameters.top_k}")
    if (parameters.top_n_tokens or 0) > capabilities.max_top_n_tokens:
        limit = capabilities.max_top_n_tokens
        raise ValidationError(f"`top_n_tokens` must be >= 0 and <= {limit}. Given: {parameters.top_n_tokens}")


def check_ranking(capabilities: Capabilities, target: str) -> None:
    """Which sequence is the best follows from log-probabilities. Raises `ValidationError` where there are none."""
    if "best_of" not in capabilities.parameters:
        raise _unsupported("best_of", target)


def _unsupported(name: str, target: str) -> ValidationError:
    return ValidationError(f"`{name}` is not supported by this server (target {target}); leave it out")


def _check_adapter(adapter_id: str, loaded: tuple[str, ...]) -> None:
    """Refuse an adapter that is not there: TGI would answer with the model itself and not say so."""
    if not loaded:
        raise ValidationError("`adapter_id` is not supported by this server: it has no adapters; leave it out")
    if adapter_id not in loaded:
        names = ", ".join(f"`{name}`" for name in loaded)
        raise ValidationError(f"`adapter_id` must be one of the adapters loaded: {names}; or leave it out")


def to_sampling(parameters: GenerateParameters, index: int = 0) -> SamplingParams:
    """The engine's sampling parameters; draws a seed where sampling was asked for without one.

    `index` counts the sequences of one request: each has a seed of its own, the next number for the next sequence.
    """
    samples = parameters.samples
    seed = secrets.randbits(64) if parameters.seed is None else (parameters.seed + index) % 2**64
    return SamplingParams(
        do_sample=samples,
        temperature=_or(parameters.temperature, 1.0),
        top_k=parameters.top_k or 0,
        top_p=_or(parameters.top_p, 1.0),
        typical_p=_or(parameters.typical_p, 1.0),
        repetition_penalty=_or(parameters.repetition_penalty, 1.0),
        frequency_penalty=_or(parameters.frequency_penalty, 0.0),
        presence_penalty=_or(parameters.presence_penalty, 0.0),
        seed=seed if samples else 0,
        top_n_tokens=parameters.top_n_tokens or 0,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
