"""`GET /api-doc/openapi.json`: the whole document, built once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from ranvier import __version__
from ranvier.api.context import ApiContext
from ranvier.api.files import File, file_of, file_response
from ranvier.api.openapi.operations import TAGS, Operation, operations
from ranvier.api.openapi.replies import HEADERS
from ranvier.api.openapi.schemas import Schema, components
from ranvier.service import ServiceLimits

_DESCRIPTION = """\
Text generation with the API of [Text Generation Inference](https://github.com/huggingface/text-generation-inference)
and that of OpenAI.

Bodies are JSON and say so in `content-type`. Types are strict: no `"20"` for 20. Unknown fields are ignored. A body
that cannot be read gets a text, a request that cannot be served an `ErrorResponse`.

Streams are server-sent events: `data: <JSON>` and an empty line for each token, a comment after 15 idle seconds. The
OpenAI routes end them with `data: [DONE]`. The schema under `text/event-stream` is that of one event's JSON.
"""


def build_document(options: Mapping[str, int], *, has_key: bool) -> Schema:
    """The OpenAPI 3.1.0 document as JSON values.

    `options`: values of the operator's options that bound fields, by name; a bound that is not known is left out.
    `has_key`: whether an API key is asked for.
    """
    paths: dict[str, Schema] = {}
    for each in all_operations():
        paths.setdefault(each.path, {})[each.method] = each.to_json(has_key=has_key)
    headers = {name: {"description": text, "schema": {"type": kind}} for name, (kind, text) in HEADERS.items()}
    parts: Schema = {"schemas": components(options), "headers": headers}
    if has_key:
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "The `--api-key`."}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ranvier",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        # Relative to the document, so that it holds behind a proxy that adds a prefix.
        "servers": [{"url": "../"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(sorted(paths.items())),
        "components": parts,
    }


def default_document() -> Schema:
    """The document of a server with default options and no key."""
    return build_document(asdict(ServiceLimits()), has_key=False)


def all_operations() -> tuple[Operation, ...]:
    """Every operation of the application."""
    return operations(OpenApiRoutes.document)


class OpenApiRoutes:
    """The handler over one service."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._file: File | None = None

    async def document(self, request: Request) -> Response:
        """GET `/api-doc/openapi.json`: this document. Its bounds are those of this server."""
        if self._file is None:
            self._file = file_of(self._build(), "application/json", "no-cache")
        return file_response(request, self._file)

    def _build(self) -> bytes:
        service = self._context.service
        options = asdict(service.limits) | {"max_input_tokens": service.engine.info.limits.max_input_tokens}
        has_key = bool(self._context.options.api_key)
        return json.dumps(build_document(options, has_key=has_key), ensure_ascii=False).encode()
