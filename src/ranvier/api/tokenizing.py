"""Texts as tokens: POST `/tokenize`, and the wire types that `/chat_tokenize` shares with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from ranvier.api.body import read_body
from ranvier.api.context import ApiContext
from ranvier.api.errors import json_response
from ranvier.api.wire import GenerateRequest, encoder

_TOKENS_AT_ONCE = 1000
"""Written between two turns of the event loop: well below a millisecond of work."""


class SimpleToken(Struct, frozen=True, gc=False):
    """A token of a text: `start` and `stop` are byte positions in its UTF-8, and `text` what lies between them."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokenizeResponse(Struct, frozen=True):
    """Body of a 200 from `/chat_tokenize`: the prompt that a chat becomes, and its tokens."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class TokenizeRoutes:
    """Handlers over one service."""

    def __init__(self, context: ApiContext) -> None:
        self._service = context.service
        self._payload_limit = context.options.payload_limit
        self._decoder = msgspec.json.Decoder(GenerateRequest)

    async def tokenize(self, request: Request) -> Response:
        """POST `/tokenize`: the tokens of `inputs`, special ones included. `parameters` only need the right shape."""
        body = await read_body(request, self._decoder, self._payload_limit)
        tokens = await self._service.tokenize(body.inputs)
        return json_response(await tokens_json(body.inputs, tokens))


def to_tokens(text: str, tokens: Sequence[tuple[int, int, int]]) -> list[SimpleToken]:
    """The wire's tokens for the `(token_id, start, stop)` of `text`. Positions within a character give U+FFFD."""
    return _slices(text.encode(), tokens)


async def tokens_json(text: str, tokens: Sequence[tuple[int, int, int]]) -> msgspec.Raw:
    """The JSON of `to_tokens`. Other requests get their turn in between: a long text has half a million tokens."""
    data = text.encode()
    parts = [_items_json(data, tokens[:_TOKENS_AT_ONCE])]
    for start in range(_TOKENS_AT_ONCE, len(tokens), _TOKENS_AT_ONCE):
        await asyncio.sleep(0)
        parts.append(_items_json(data, tokens[start : start + _TOKENS_AT_ONCE]))
    return msgspec.Raw(b"[" + b",".join(parts) + b"]")


def _items_json(data: bytes, tokens: Sequence[tuple[int, int, int]]) -> bytes:
    return encoder.encode(_slices(data, tokens))[1:-1]


def _slices(data: bytes, tokens: Sequence[tuple[int, int, int]]) -> list[SimpleToken]:
    return [
        SimpleToken(token_id, data[start:stop].decode(errors="replace"), start, stop)
        for token_id, start, stop in tokens
    ]
