"""TGI's JSON bodies as msgspec structs. Field names, types and presence are the wire's; nothing inside uses them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ranvier.service import Completion, Finished, Grammar, PromptPiece, StreamItem, TokenPiece
from ranvier.service import GenerateParameters as ServiceParameters

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Meta(ge=0)]  # msgspec cannot hold the upper bound; `check_u64` does
I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


def check_u64(body: Struct, *names: str) -> None:
    """Raise `ValueError` for a field that is over the bound of its type."""
    for name in names:
        value = getattr(body, name)
        if value is not None and value >= 2**64:
            raise ValueError(f"`{name}` must be < 2**64")


class JsonSchemaConfig(Struct, frozen=True):
    """A schema with a name, as the OpenAI API has it; other keys such as `strict` are ignored."""

    schema: Any
    name: str | None = None


class JsonGrammar(Struct, frozen=True, tag_field="type", tag="json"):
    """A JSON Schema, as an object or as a string."""

    value: Any

    def to_grammar(self) -> Grammar:
        """The service's value."""
        return Grammar("json", self.value)


class JsonObjectGrammar(JsonGrammar, frozen=True, tag="json_object"):
    """Another name of `json`."""


class RegexGrammar(Struct, frozen=True, tag_field="type", tag="regex"):
    """A regular expression for the whole output."""

    value: str

    def to_grammar(self) -> Grammar:
        """The service's value."""
        return Grammar("regex", self.value)


class JsonSchemaGrammar(Struct, frozen=True, tag_field="type", tag="json_schema"):
    """A JSON Schema in the OpenAI API's wrapping."""

    value: JsonSchemaConfig

    def to_grammar(self) -> Grammar:
        """The service's value."""
        return Grammar("json", self.value.schema)


GrammarType = JsonGrammar | JsonObjectGrammar | RegexGrammar | JsonSchemaGrammar


class GenerateParameters(Struct, frozen=True):
    """Parameters of a generation."""

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
    grammar: GrammarType | None = None
    adapter_id: str | None = None

    def __post_init__(self) -> None:
        check_u64(self, "best_of", "truncate", "seed")

    def to_parameters(self) -> ServiceParameters:
        """The service's value."""
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "grammar"}
        return ServiceParameters(**values, grammar=None if self.grammar is None else self.grammar.to_grammar())


class GenerateRequest(Struct, frozen=True):
    """Body of `/generate` and `/generate_stream`."""

    inputs: str
    parameters: GenerateParameters | UnsetType = UNSET

    def to_parameters(self) -> ServiceParameters:
        """The parameters; without the key TGI samples, with `{}` it does not."""
        if isinstance(self.parameters, UnsetType):
            return ServiceParameters(do_sample=True)
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


class PrefillToken(Struct, frozen=True):
    """A prompt token; the first has no log-probability."""

    id: int
    text: str
    logprob: float | None


class BestOfSequence(Struct, frozen=True):
    """One of the other sequences of `best_of`."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(Struct, frozen=True):
    """`details` of a whole reply."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
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
    """Body of `/info`. Two fields are not in TGI's: `adapters` is left out where none are loaded.

    `emulated` is true where a processor stands in for the devices that the model was exported for, else left out.
    """

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
    adapters: list[str] | UnsetType = UNSET
    emulated: bool | UnsetType = UNSET


def _token(piece: TokenPiece) -> Token:
    return Token(piece.token_id, piece.text, piece.logprob, piece.is_special)


def _prefill(pieces: tuple[PromptPiece, ...]) -> list[PrefillToken]:
    return [PrefillToken(piece.token_id, piece.text, piece.logprob) for piece in pieces]


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
        prefill=_prefill(finished.prompt),
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
        prefill=_prefill(best.prompt),
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
