"""Every operation of the application, as the document shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ranvier.api.docs import FILE_TYPES, DocsRoutes
from ranvier.api.kserve import KServeRoutes
from ranvier.api.openai import ChatRoutes, CompletionRoutes
from ranvier.api.openapi.replies import (
    BODY_ERRORS,
    COMPLETIONS_HEADERS,
    FAILED,
    GENERATION_ERRORS,
    GENERATION_HEADERS,
    NO_KEY,
    REFUSED,
    TEXT,
    WRONG_SHAPE,
    Reply,
    either,
    failure,
    ok,
    ok_empty,
    streamed,
)
from ranvier.api.openapi.schemas import Schema, list_of, ref
from ranvier.api.platforms import SageMakerRoutes, VertexRoutes
from ranvier.api.system import SystemRoutes
from ranvier.api.tgi import TgiRoutes
from ranvier.api.tokenizing import TokenizeRoutes

TAGS = {
    "TGI": "Text Generation Inference's own routes.",
    "OpenAI": "The OpenAI API.",
    "Platforms": "What hosting platforms ask for: SageMaker, Vertex AI, KServe.",
    "Server": "Health, limits, metrics, and this document.",
}

_MARK = re.compile(r"^[A-Z]+ (?:`[^`]+`(?:, )?)+:? ?")
_PROMPT = "What is Deep Learning?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `handler` tells by its docstring what it does; `body` names the schema of its JSON."""

    method: str
    path: str
    name: str
    tag: str
    handler: Callable[..., Any]
    replies: tuple[Reply, ...]
    body: str | None = None
    example: Any = None
    is_protected: bool = False

    @property
    def summary(self) -> str:
        """The first sentence of the handler's docstring."""
        return self._sentences()[0].replace("`", "")

    @property
    def description(self) -> str:
        """The sentences after the first; may be empty."""
        return self._sentences()[1]

    def _sentences(self) -> tuple[str, str]:
        text = " ".join(_MARK.sub("", self.handler.__doc__ or "").split())
        first, _, rest = text.partition(". ")
        return (first[:1].upper() + first[1:]).rstrip("."), rest

    def to_json(self, *, has_key: bool) -> Schema:
        """The Operation Object."""
        replies = (*self.replies, NO_KEY) if has_key and self.is_protected else self.replies
        operation: Schema = {"tags": [self.tag], "operationId": self.name, "summary": self.summary}
        if self.description:
            operation["description"] = self.description
        names = re.findall(r"{(\w+)}", self.path)
        if names:
            operation["parameters"] = [_path_parameter(name) for name in names]
        if self.body is not None:
            content: Schema = {"schema": ref(self.body)} | ({} if self.example is None else {"example": self.example})
            operation["requestBody"] = {"required": True, "content": {"application/json": content}}
        operation["responses"] = {str(reply.status): reply.to_json() for reply in _sorted(replies)}
        if has_key and self.is_protected:
            operation["security"] = [{"key": []}]
        return operation


def _sorted(replies: tuple[Reply, ...]) -> list[Reply]:
    return sorted(replies, key=lambda reply: reply.status)


def _path_parameter(name: str) -> Schema:
    known = {"model": "Any name.", "version": "Any version.", "name": "A file of the page."}
    schema: Schema = {"type": "string"}
    if name == "name":
        schema["enum"] = list(FILE_TYPES)
    return {"name": name, "in": "path", "required": True, "description": known[name], "schema": schema}


def _get(path: str, name: str, tag: str, handler: Callable[..., Any], *replies: Reply) -> Operation:
    return Operation(method="get", path=path, name=name, tag=tag, handler=handler, replies=replies)


_DOWN = failure(503, "The server drains, or its engine is gone.", "unhealthy", "healthcheck", retry=True)
_HEALTH = (ok_empty("Healthy."), _DOWN)
_LIVE = ok(ref("Live"), "Always.")
_GENERATE = {"inputs": _PROMPT, "parameters": {"max_new_tokens": 20}}
_CHAT = {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 20}
_COMPLETION = {"prompt": _PROMPT, "max_tokens": 20}
_VERSION = "/v2/models/{model}/versions/{version}"
_NOT_MODIFIED = Reply(status=304, text="The client has it already.", headers=("etag",))
_NO_FILE = Reply(status=404, text="There is no such file.")

_TGI = (
    Operation(
        method="post",
        path="/",
        name="compat_generate",
        tag="TGI",
        handler=TgiRoutes.compat,
        body="CompatGenerateRequest",
        example=_GENERATE,
        replies=(
            either(list_of(ref("GenerateResponse")), "StreamResponse", "ErrorResponse", headers=GENERATION_HEADERS),
            *BODY_ERRORS,
            *GENERATION_ERRORS,
        ),
        is_protected=True,
    ),
    Operation(
        method="post",
        path="/generate",
        name="generate",
        tag="TGI",
        handler=TgiRoutes.generate,
        body="GenerateRequest",
        example=_GENERATE,
        replies=(
            ok(ref("GenerateResponse"), "The generated text.", GENERATION_HEADERS),
            *BODY_ERRORS,
            *GENERATION_ERRORS,
        ),
        is_protected=True,
    ),
    Operation(
        method="post",
        path="/generate_stream",
        name="generate_stream",
        tag="TGI",
        handler=TgiRoutes.generate_stream,
        body="GenerateRequest",
        example=_GENERATE,
        replies=(
            streamed(
                "StreamResponse",
                "ErrorResponse",
                text="An event for each token. Failures are events, too: overload and broken limits among them.",
            ),
            *BODY_ERRORS,
            WRONG_SHAPE,
        ),
        is_protected=True,
    ),
    Operation(
        method="post",
        path="/tokenize",
        name="tokenize",
        tag="TGI",
        handler=TokenizeRoutes.tokenize,
        body="GenerateRequest",
        example={"inputs": _PROMPT},
        replies=(ok(ref("TokenizeResponse"), "The tokens."), *BODY_ERRORS, REFUSED),
        is_protected=True,
    ),
    Operation(
        method="post",
        path="/chat_tokenize",
        name="get_chat_tokenize",
        tag="TGI",
        handler=ChatRoutes.tokenize,
        body="ChatRequest",
        example=_CHAT,
        replies=(ok(ref("ChatTokenizeResponse"), "The prompt and its tokens."), *BODY_ERRORS, REFUSED),
    ),
)
_OPENAI = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        name="chat_completions",
        tag="OpenAI",
        handler=ChatRoutes.completions,
        body="ChatRequest",
        example=_CHAT,
        replies=(
            either(ref("ChatCompletion"), "ChatCompletionChunk", "StreamError", headers=GENERATION_HEADERS),
            *BODY_ERRORS,
            *GENERATION_ERRORS,
        ),
        is_protected=True,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        name="completions",
        tag="OpenAI",
        handler=CompletionRoutes.completions,
        body="CompletionRequest",
        example=_COMPLETION,
        replies=(
            either(ref("CompletionFinal"), "Completion", "StreamError", headers=COMPLETIONS_HEADERS),
            *BODY_ERRORS,
            *GENERATION_ERRORS,
        ),
        is_protected=True,
    ),
    _get("/v1/models", "openai_get_model_info", "OpenAI", SystemRoutes.models, ok(ref("ModelsInfo"), "The model.")),
)
_PLATFORMS = (
    Operation(
        method="post",
        path="/invocations",
        name="sagemaker_compatibility",
        tag="Platforms",
        handler=SageMakerRoutes.invocations,
        body="SagemakerRequest",
        example=_GENERATE,
        replies=(
            either(ref("SagemakerResponse"), "SagemakerStreamResponse", headers=GENERATION_HEADERS),
            *BODY_ERRORS,
            *GENERATION_ERRORS,
        ),
        is_protected=True,
    ),
    Operation(
        method="post",
        path="/vertex",
        name="vertex_compatibility",
        tag="Platforms",
        handler=VertexRoutes.predict,
        body="VertexRequest",
        example={"instances": [_GENERATE]},
        replies=(ok(ref("VertexResponse"), "The generated texts."), *BODY_ERRORS, REFUSED, FAILED),
        is_protected=True,
    ),
    _get("/v2", "kserve_metadata", "Platforms", KServeRoutes.server, ok(ref("Metadata"), "What it can.")),
    _get("/v2/health/live", "kserve_live", "Platforms", KServeRoutes.live, _LIVE),
    _get("/v2/health/ready", "kserve_ready", "Platforms", KServeRoutes.live, _LIVE),
    _get(_VERSION, "kserve_model", "Platforms", KServeRoutes.model, ok(ref("Metadata"), "What it can.")),
    _get(f"{_VERSION}/ready", "kserve_model_ready", "Platforms", KServeRoutes.live, _LIVE),
    Operation(
        method="post",
        path=f"{_VERSION}/infer",
        name="kserve_infer",
        tag="Platforms",
        handler=KServeRoutes.infer,
        body="InferenceRequest",
        example={
            "id": "1",
            "inputs": [{"name": "prompt", "shape": [1, 5], "datatype": "BYTES", "data": list(b"Hello")}],
            "outputs": [{"name": "text"}],
        },
        replies=(ok(ref("InferenceResponse"), "The generated texts."), *BODY_ERRORS, REFUSED, FAILED),
        is_protected=True,
    ),
)


def _server(document: Callable[..., Any]) -> tuple[Operation, ...]:
    metrics = Reply(status=200, text="Prometheus' text format.", contents={TEXT: {"type": "string"}})
    to_page = Reply(status=303, text="To `/docs/`.", headers=("location",))
    file = Reply(status=200, text="The file.", contents=_file_types(), headers=("etag",))
    described = Reply(
        status=200, text="OpenAPI 3.1.0.", contents={"application/json": {"type": "object"}}, headers=("etag",)
    )
    return (
        _get("/", "health_root", "Server", SystemRoutes.health, *_HEALTH),
        _get("/health", "health", "Server", SystemRoutes.health, *_HEALTH),
        _get("/ping", "ping", "Server", SystemRoutes.health, *_HEALTH),
        _get("/livez", "live", "Server", SystemRoutes.live, ok_empty("The process serves.")),
        _get("/readyz", "ready", "Server", SystemRoutes.ready, ok_empty("New requests are taken."), _DOWN),
        _get("/info", "get_model_info", "Server", SystemRoutes.info, ok(ref("Info"), "The model and the limits.")),
        _get("/metrics", "metrics", "Server", SystemRoutes.metrics, metrics),
        _get("/docs", "docs", "Server", DocsRoutes.to_page, to_page),
        _get("/docs/{name}", "docs_file", "Server", DocsRoutes.file, file, _NOT_MODIFIED, _NO_FILE),
        _get("/api-doc/openapi.json", "openapi", "Server", document, described, _NOT_MODIFIED),
    )


def _file_types() -> dict[str, Schema]:
    return {kind.partition(";")[0]: {"type": "string"} for kind in FILE_TYPES.values()}


def operations(document: Callable[..., Any]) -> tuple[Operation, ...]:
    """All of them; `document` is the handler of the document itself."""
    return (*_TGI, *_OPENAI, *_PLATFORMS, *_server(document))
