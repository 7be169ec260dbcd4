"""TGI's JSON bodies as msgspec structs. Field names, types and presence are the wire's; nothing inside uses them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ranvier.service import Completion, Finished, GenerateParameters, StreamItem, TokenPiece

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Meta(ge=0)]  # msgspec cannot hold the upper bound; `Parameters` checks it
I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class Grammar(Struct, frozen=True):
    """`{"type": …, "value": …}`; looked at no further while grammars are refused."""

    type: Literal["json", "json_object", "regex", "json_schema"]
    value: Any


class Parameters(Struct, frozen=True):
    """`GenerateParameters`."""

    best_of: U64 | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: I32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: U32 | None = None
    return_full_text: bool | None = None
    stop: tuple[str, ...] = ()
    truncate: U64 | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: U64 | None = None
    top_n_tokens: U32 | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("best_of", "truncate", "seed"):
            value = getattr(self, name)
            if value is not None and value >= 2**64:
                raise ValueError(f"`{name}` must be < 2**64")

    def to_parameters(self) -> GenerateParameters:
        """The service's value."""
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "grammar"}
        return GenerateParameters(**values, has_grammar=self.grammar is not None)


class GenerateRequest(Struct, frozen=True):
    """Body of `/generate` and `/generate_stream`."""

    inputs: str
    parameters: Parameters | UnsetType = UNSET

    def to_parameters(self) -> GenerateParameters:
        """The parameters; without the key TGI samples, with `{}` it does not."""
        if isinstance(self.parameters, UnsetType):
            return GenerateParameters(do_sample=True)
        return self.parameters.to_parameters()


class CompatGenerateRequest(GenerateRequest, frozen=True):
    """Body of POST `/`."""

    stream: bool = False


class Token(Struct, frozen=True):
    """A token object."""

    id: int
    text: str
    logprob: float
    special: bool


class BestOfSequence(Struct, frozen=True):
    """One of the other sequences of `best_of`."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[Token]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(Struct, frozen=True):
    """`details` of a whole reply."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[Token]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET
    top_tokens: list[list[Token]] | UnsetType = UNSET


class GenerateResponse(Struct, frozen=True):
    """Body of a 200 from `/generate`."""

    generated_text: str
    details: Details | UnsetType = UNSET


class StreamDetails(Struct, frozen=True):
    """`details` of the last event."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamResponse(Struct, frozen=True):
    """One event of `/generate_stream`."""

    index: int
    token: Token
    top_tokens: list[Token] | UnsetType = UNSET
    generated_text: str | None = None
    details: StreamDetails | None = None


class ErrorResponse(Struct, frozen=True):
    """Every JSON error."""

    error: str
    error_type: str


class Info(Struct, frozen=True):
    """Body of `/info`."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None


def _token(piece: TokenPiece) -> Token:
    return Token(piece.token_id, piece.text, piece.logprob, piece.is_special)


def _top_tokens(finished: Finished) -> list[list[Token]] | UnsetType:
    if not any(piece.top for piece in finished.tokens):
        return UNSET
    return [[_token(item) for item in piece.top] for piece in finished.tokens]


def _sequence(finished: Finished, prefix: str) -> BestOfSequence:
    return BestOfSequence(
        generated_text=prefix + finished.text,
        finish_reason=finished.reason,
        generated_tokens=len(finished.tokens),
        seed=finished.seed,
        prefill=[],
        tokens=[_token(piece) for piece in finished.tokens],
        top_tokens=_top_tokens(finished),
    )


def generate_response(completion: Completion, *, prefix: str, with_details: bool) -> GenerateResponse:
    """The reply; `prefix` is the prompt where the full text was asked for."""
    best = completion.best
    if not with_details:
        return GenerateResponse(prefix + best.text)
    others = [_sequence(other, prefix) for other in completion.others]
    details = Details(
        finish_reason=best.reason,
        generated_tokens=len(best.tokens),
        seed=best.seed,
        prefill=[],
        tokens=[_token(piece) for piece in best.tokens],
        best_of_sequences=others or UNSET,
        top_tokens=_top_tokens(best),
    )
    return GenerateResponse(prefix + best.text, details)


def stream_response(item: StreamItem, index: int, *, prefix: str, with_details: bool) -> StreamResponse:
    """One event; `index` counts from 1."""
    top = [_token(alternative) for alternative in item.piece.top] or UNSET
    finished = item.finished
    if finished is None:
        return StreamResponse(index, _token(item.piece), top)
    details = StreamDetails(finished.reason, len(finished.tokens), finished.seed, finished.num_input)
    return StreamResponse(index, _token(item.piece), top, prefix + finished.text, details if with_details else None)


encoder = msgspec.json.Encoder()
