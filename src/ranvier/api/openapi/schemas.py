"""`components.schemas`: what msgspec says of the wire types, with what their decoders check besides.

Schemas that TGI's document has under a name of their own, such as `FinishReason`, are made here, where the types have
none: clients are generated from those names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ranvier.api.kserve import InferenceRequest, InferenceResponse, Live, Metadata
from ranvier.api.openai.chat_wire import ChatRequest
from ranvier.api.openai.completions_wire import CompletionRequest
from ranvier.api.openai.replies import (
    ChatCompletion,
    ChatCompletionChunk,
    Chunk,
    CompletionFinal,
    StreamError,
    TextMessage,
    ToolCallDelta,
    ToolCallMessage,
)
from ranvier.api.openapi.fields import note_of
from ranvier.api.platforms import VertexRequest, VertexResponse, VertexText
from ranvier.api.system import ModelsInfo
from ranvier.api.tokenizing import ChatTokenizeResponse
from ranvier.api.wire import (
    CompatGenerateRequest,
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
    Info,
    StreamResponse,
)

Schema = dict[str, Any]

REQUESTS: tuple[type[Struct], ...] = (
    GenerateRequest,
    CompatGenerateRequest,
    ChatRequest,
    CompletionRequest,
    VertexText,
    VertexRequest,
    InferenceRequest,
)
_REPLIES: tuple[type[Struct], ...] = (
    GenerateResponse,
    StreamResponse,
    ErrorResponse,
    Info,
    ModelsInfo,
    ChatTokenizeResponse,
    ChatCompletion,
    ChatCompletionChunk,
    TextMessage,
    ToolCallMessage,
    ToolCallDelta,
    CompletionFinal,
    Chunk,
    StreamError,
    VertexResponse,
    Metadata,
    Live,
    InferenceResponse,
)

_PLACE = "#/components/schemas/"
_NULL: Schema = {"type": "null"}


def ref(name: str) -> Schema:
    """A reference to a named schema."""
    return {"$ref": _PLACE + name}


def any_of(*names: str) -> Schema:
    """One of several named schemas; itself if there is one."""
    return ref(names[0]) if len(names) == 1 else {"anyOf": [ref(name) for name in names]}


def list_of(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def _tagged(field: str, values: Mapping[str, str]) -> Schema:
    """One of several schemas, told apart by a field."""
    mapping = {value: _PLACE + name for value, name in values.items()}
    return {
        "oneOf": [ref(name) for name in values.values()],
        "discriminator": {"propertyName": field, "mapping": mapping},
    }


def _with(required: str, schema: Schema) -> Schema:
    return {"type": "object", "properties": {required: schema}, "required": [required]}


_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}, "minItems": 1}
_JSON_SCHEMA_FORMAT = {
    "type": "object",
    "properties": {"type": {"type": "string", "enum": ["json_schema"]}, "json_schema": ref("JsonSchemaConfig")},
    "required": ["type", "json_schema"],
}
_PLAIN_FORMAT = {
    "type": "object",
    "properties": {"type": {"type": "string", "enum": ["json_object", "text"]}},
    "required": ["type"],
}

_NAMED: dict[str, Schema] = {
    "ChatCompletionDelta": any_of("TextMessage", "ToolCallDelta"),
    "Completion": any_of("Chunk", "CompletionFinal"),
    "FinishReason": {"type": "string", "enum": ["length", "eos_token", "stop_sequence"]},
    "GrammarType": _tagged(
        "type",
        {
            "json": "JsonGrammar",
            "json_object": "JsonObjectGrammar",
            "regex": "RegexGrammar",
            "json_schema": "JsonSchemaGrammar",
        },
    ),
    "MessageBody": {
        "anyOf": [_with("content", ref("MessageContent")), _with("tool_calls", list_of(ref("ToolCall")))],
    },
    "MessageChunk": _tagged("type", {"text": "TextChunk", "image_url": "ImageChunk"}),
    "MessageContent": {"anyOf": [{"type": "string"}, list_of(ref("MessageChunk"))]},
    "OutputMessage": any_of("TextMessage", "ToolCallMessage"),
    "Prompt": {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            _TOKEN_IDS,
            {"type": "array", "items": _TOKEN_IDS, "minItems": 1},
        ]
    },
    "ResponseFormat": {"anyOf": [ref("GrammarType"), _JSON_SCHEMA_FORMAT, _PLAIN_FORMAT]},
    "SagemakerRequest": any_of("CompatGenerateRequest", "ChatRequest", "CompletionRequest"),
    "SagemakerResponse": {
        "anyOf": [list_of(ref("GenerateResponse")), ref("ChatCompletion"), ref("CompletionFinal")],
    },
    "SagemakerStreamResponse": any_of(
        "StreamResponse", "ChatCompletionChunk", "Chunk", "CompletionFinal", "ErrorResponse", "StreamError"
    ),
    "TokenizeResponse": list_of(ref("SimpleToken")),
    "ToolChoice": {"anyOf": [{"type": "string"}, ref("NamedToolChoice")]},
}
_DESCRIPTIONS = {
    "ChatCompletionDelta": "What an event adds: text, or a part of a call.",
    "Completion": "An event of a completions stream.",
    "FinishReason": "Why a text ended: by its length, by the model's end of text, or by a stop string.",
    "GrammarType": "What the output must match. A schema under `json` or `json_schema` needs `properties` at its top.",
    "MessageBody": "Text or calls.",
    "MessageChunk": "A piece of a message.",
    "MessageContent": "Text, or pieces that are joined.",
    "OutputMessage": "An answer: text, or a call.",
    "Prompt": "A text or the ids of its tokens, or several of either.",
    "ResponseFormat": "A grammar as TGI writes it, or a format as the OpenAI API does.",
    "SagemakerRequest": "The first of these shapes that fits.",
    "SagemakerResponse": "The reply of the route that has this shape of body.",
    "SagemakerStreamResponse": "An event of the route that has this shape of body.",
    "TokenizeResponse": "The tokens of a text.",
    "ToolChoice": "`auto`, `none`, `required` or a tool's name; or a tool as the OpenAI API names it.",
}

_FIELDS: dict[tuple[str, str], Schema] = {
    ("BestOfSequence", "finish_reason"): ref("FinishReason"),
    ("ChatCompletionChoice", "delta"): ref("ChatCompletionDelta"),
    ("ChatCompletionComplete", "message"): ref("OutputMessage"),
    ("ChatRequest", "response_format"): {"anyOf": [ref("ResponseFormat"), _NULL], "default": None},
    ("ChatRequest", "tool_choice"): {"anyOf": [ref("ToolChoice"), _NULL], "default": None},
    ("ChatTokenizeResponse", "tokenize_response"): ref("TokenizeResponse"),
    ("CompletionRequest", "prompt"): ref("Prompt"),
    ("Details", "finish_reason"): ref("FinishReason"),
    ("GenerateParameters", "grammar"): {"anyOf": [ref("GrammarType"), _NULL], "default": None},
    ("JsonGrammar", "value"): {"type": ["object", "string"]},
    ("JsonObjectGrammar", "value"): {"type": ["object", "string"]},
    ("Message", "content"): {"anyOf": [ref("MessageContent"), _NULL], "default": None},
    ("StreamDetails", "finish_reason"): ref("FinishReason"),
    ("VertexRequest", "instances"): {**list_of(any_of("VertexText", "ChatRequest")), "minItems": 1},
}
"""Fields whose schema has a name, or says more than the type."""

_UNUSED = ("AssistantMessage",)


def request_fields() -> dict[str, tuple[str, ...]]:
    """Names of the fields of every object that a request may hold, by schema."""
    _, found = msgspec.json.schema_components(REQUESTS, ref_template=_PLACE + "{name}")
    return {name: tuple(schema["properties"]) for name, schema in found.items() if "properties" in schema}


def components(options: Mapping[str, int]) -> dict[str, Schema]:
    """Every named schema. `options`: values of the operator's options that bound fields, by name."""
    _, found = msgspec.json.schema_components((*REQUESTS, *_REPLIES), ref_template=_PLACE + "{name}")
    schemas = {name: _finished(name, schema, options) for name, schema in found.items() if name not in _UNUSED}
    for name, schema in _NAMED.items():
        schemas[name] = {"description": _DESCRIPTIONS[name], **schema}
    schemas["Message"] = {"allOf": [ref("MessageBody"), schemas["Message"]]}
    schemas["ChatRequest"]["not"] = _both("max_tokens", "max_completion_tokens")
    _require_what_is_always_there(schemas)
    return dict(sorted(schemas.items()))


def _finished(name: str, schema: Schema, options: Mapping[str, int]) -> Schema:
    done: Schema = _tidied({key: value for key, value in schema.items() if key != "title"})
    for field, value in done.get("properties", {}).items():
        given = dict(_FIELDS.get((name, field), value))
        done["properties"][field] = {**given, **_noted(name, field, options)}
    if not done.get("required"):
        done.pop("required", None)
    return done


def _noted(schema: str, field: str, options: Mapping[str, int]) -> Schema:
    note = note_of(schema, field)
    if note is None:
        return {}
    bounds = {keyword: options[name] for keyword, name in note.options.items() if name in options}
    example = {} if note.example is None else {"examples": [note.example]}
    return {"description": note.text, **note.rules, **bounds, **example}


def _tidied(schema: Any) -> Any:
    """The schema without `anyOf` where a list of types says the same; tags with their type."""
    if isinstance(schema, (list, tuple)):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidied(value) for key, value in schema.items()}
    if isinstance(tidy.get("enum"), list) and "type" not in tidy:
        tidy = {"type": "string", **tidy}
    variants = tidy.get("anyOf")
    if isinstance(variants, list) and len(variants) == 2 and variants[1] == _NULL and _has_plain_type(variants[0]):
        rest = {key: value for key, value in tidy.items() if key != "anyOf"}
        return {**variants[0], "type": [variants[0]["type"], "null"], **rest}
    return tidy


def _has_plain_type(schema: Schema) -> bool:
    return isinstance(schema.get("type"), str) and "enum" not in schema


def _both(*names: str) -> Schema:
    return {"properties": {name: {"type": "integer"} for name in names}, "required": list(names)}


def _require_what_is_always_there(schemas: dict[str, Schema]) -> None:
    """Replies have all their fields but those that may be unset: their defaults are written, too."""
    for kind in _structs_of(_REPLIES):
        if kind.__name__ in schemas:
            kept = (field.encode_name for field in msgspec.structs.fields(kind) if field.default is not msgspec.UNSET)
            tags = (name for name in schemas[kind.__name__].get("required", ()) if name not in kind.__struct_fields__)
            schemas[kind.__name__]["required"] = [*tags, *kept]
            for value in schemas[kind.__name__]["properties"].values():
                value.pop("default", None)


def _structs_of(kinds: Iterable[type[Struct]]) -> list[type[Struct]]:
    """The types and all types that their fields hold."""
    found: dict[type[Struct], None] = {}

    def visit(kind: msgspec.inspect.Type) -> None:
        if isinstance(kind, msgspec.inspect.StructType):
            if kind.cls in found:
                return
            found[kind.cls] = None
            parts = [field.type for field in kind.fields]
        else:
            parts = [*getattr(kind, "types", ()), *filter(None, [getattr(kind, "item_type", None)])]
        for part in parts:
            visit(part)

    for each in kinds:
        visit(msgspec.inspect.type_info(each))
    return list(found)
