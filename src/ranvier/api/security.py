"""Who may ask: the API key, and pages of other origins (CORS)."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]

_UNAUTHORIZED = {"www-authenticate": "Bearer"}

_HEADERS = frozenset(
    ("accept", "accept-language", "authorization", "content-language", "content-type")
    + ("traceparent", "tracestate", "user-agent", "x-request-id")
)
# What OpenAI's clients add by themselves; the list behind the first prefix grows with their releases.
_HEADER_PREFIXES = ("x-stainless-", "openai-")
_ASKED = frozenset((b"origin", b"access-control-request-method", b"access-control-request-headers"))
_PREFLIGHT_AGE_S = "600"


def with_key(handler: Handler, api_key: str | None) -> Handler:
    """Ask for `Authorization: Bearer <key>`, else an empty 401; without a key the handler as it is.

    The scheme may be in any letter case, with spaces or tabs before the key. The key is compared exactly, as the bytes
    of its UTF-8 or of its Latin-1 (what browsers send), in a time that tells nothing of it. A header given twice is
    refused.
    """
    if not api_key:
        return handler
    # Digests have one length, and nothing here can show the key. No header carries white space at its ends, which a key
    # read from a file may have; of a key that is nothing else no digest is left, and nobody comes in.
    digests = [_digest(encoded) for encoded in _encodings(api_key.strip(" \t\r\n")) if encoded]

    async def checked(request: Request) -> Response:
        given = _digest(_bearer(request.scope))
        is_known = [hmac.compare_digest(given, digest) for digest in digests]
        return await handler(request) if any(is_known) else Response(status_code=401, headers=_UNAUTHORIZED)

    return checked


def _encodings(api_key: str) -> list[bytes]:
    # A variable that is not UTF-8 comes with its bytes escaped as surrogates.
    encodings = [api_key.encode("utf-8", "surrogateescape")]
    with contextlib.suppress(UnicodeEncodeError):
        encodings.append(api_key.encode("latin-1"))
    return encodings


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _bearer(scope: Scope) -> bytes:
    """The credential; empty where there is none, which no key is."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        return b""
    scheme, _, given = values[0].strip(b" \t").partition(b" ")
    return given.strip(b" \t") if scheme.lower() == b"bearer" else b""


class Cors:
    """Lets pages of other origins ask and read: methods GET and POST, no cookies.

    The outermost layer: it answers preflights before any key is asked for, and every reply carries its headers.
    `origins` empty, or with a `*` in it, stands for any. Request headers are allowed by name, since a proxy in front
    may trust others. All reply headers may be read.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self._app = app
        self._origins = None if not origins or "*" in origins else frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or pass on and add headers to the reply's start."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _ASKED}
        if scope["method"] == "OPTIONS" and b"origin" in asked and b"access-control-request-method" in asked:
            await Response(headers=self._preflight(asked))(scope, receive, send)
            return
        added = [(name.encode(), value.encode("latin-1")) for name, value in self._simple(asked).items()]

        # Not a coroutine of its own: streams come through here token by token.
        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            return send(message)

        await self._app(scope, receive, send_with_headers)

    def _allowed(self, origin: str) -> dict[str, str]:
        if self._origins is None:
            return {"access-control-allow-origin": "*"}
        return {"access-control-allow-origin": origin} if origin in self._origins else {}

    def _simple(self, asked: dict[bytes, str]) -> dict[str, str]:
        vary = {"vary": "Origin"}
        if b"origin" not in asked:
            return vary
        allowed = self._allowed(asked[b"origin"])
        return vary | allowed | {"access-control-expose-headers": "*"} if allowed else vary

    def _preflight(self, asked: dict[bytes, str]) -> dict[str, str]:
        """Headers of a 200 that says what is allowed; the browser finds out itself whether that is enough."""
        vary = {"vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
        allowed = self._allowed(asked[b"origin"])
        if not allowed:
            return vary
        names = {name.strip().lower() for name in asked.get(b"access-control-request-headers", "").split(",")}
        extra = sorted(name for name in names if name.startswith(_HEADER_PREFIXES))
        return {
            **vary,
            **allowed,
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": ", ".join([*sorted(_HEADERS), *extra]),
            "access-control-max-age": _PREFLIGHT_AGE_S,
        }
