"""What an operation may reply: statuses, content types, headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ranvier.api.openapi.schemas import Schema, any_of, ref

JSON, TEXT, EVENTS = "application/json", "text/plain", "text/event-stream"
HEADERS: dict[str, tuple[str, str]] = {
    "x-compute-type": ("string", "What computes."),
    "x-compute-time": ("number", "Seconds, from the request's arrival to its end."),
    "x-compute-characters": ("integer", "Characters of the prompt, after the chat template."),
    "x-total-time": ("integer", "Milliseconds, from the request's arrival to its end."),
    "x-validation-time": ("integer", "Milliseconds until the request was queued."),
    "x-queue-time": ("integer", "Milliseconds in the queue."),
    "x-inference-time": ("integer", "Milliseconds from the queue to the end."),
    "x-time-per-token": ("integer", "Milliseconds of inference for each generated token."),
    "x-prompt-tokens": ("integer", "Tokens of the prompt."),
    "x-generated-tokens": ("integer", "Tokens generated."),
    "retry-after": ("integer", "Seconds after which another try makes sense."),
    "etag": ("string", "Changes with the content; send it as `if-none-match` to get a 304."),
    "www-authenticate": ("string", "`Bearer`."),
    "location": ("string", "Where to go."),
}
"""Reply headers: type and meaning."""

FIRST_HEADERS = ("x-compute-type", "x-compute-characters")
COMPLETIONS_HEADERS = tuple(name for name in HEADERS if name.startswith("x-") and name != "x-compute-time")
GENERATION_HEADERS = tuple(name for name in HEADERS if name.startswith("x-"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One status. `contents`: schema by content type, none for an empty body; `example` of its JSON."""

    status: int
    text: str
    contents: Mapping[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    example: Any = None

    def to_json(self) -> Schema:
        """The Response Object."""
        reply: Schema = {"description": self.text}
        if self.headers:
            reply["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in self.headers}
        if self.contents:
            reply["content"] = {kind: self._content(kind, schema) for kind, schema in self.contents.items()}
        return reply

    def _content(self, kind: str, schema: Schema) -> Schema:
        return (
            {"schema": schema} if self.example is None or kind != JSON else {"schema": schema, "example": self.example}
        )


def ok(schema: Schema, text: str, headers: tuple[str, ...] = ()) -> Reply:
    """A 200 with JSON."""
    return Reply(status=200, text=text, contents={JSON: schema}, headers=headers)


def ok_empty(text: str) -> Reply:
    """A 200 without a body."""
    return Reply(status=200, text=text)


def streamed(*names: str, text: str) -> Reply:
    """A 200 with events only. The schema is that of the JSON of one event."""
    return Reply(status=200, text=text, contents={EVENTS: any_of(*names)}, headers=FIRST_HEADERS)


def either(schema: Schema, *names: str, headers: tuple[str, ...]) -> Reply:
    """A 200 with JSON, or with events where the body asks for a stream."""
    text = (
        "The generated text; with `stream` true an event for each token. Once a stream has begun, failures are events, "
        "too: overload and broken limits among them."
    )
    return Reply(status=200, text=text, contents={JSON: schema, EVENTS: any_of(*names)}, headers=headers)


def failure(status: int, text: str, error: str, error_type: str, *, retry: bool = False) -> Reply:
    """A JSON error."""
    return Reply(
        status=status,
        text=text,
        contents={JSON: ref("ErrorResponse")},
        headers=("retry-after",) if retry else (),
        example={"error": error, "error_type": error_type},
    )


_PLAIN = {TEXT: {"type": "string"}}
BODY_ERRORS = (
    Reply(status=400, text="The body is no JSON.", contents=_PLAIN),
    Reply(status=413, text="The body is larger than `--payload-limit`.", contents=_PLAIN),
    Reply(status=415, text="The body does not say that it is JSON.", contents=_PLAIN),
)
WRONG_SHAPE = Reply(status=422, text="The body has a wrong shape.", contents=_PLAIN)
REFUSED = Reply(
    status=422,
    text="A limit is broken, as JSON; or the body has a wrong shape, as text.",
    contents={JSON: ref("ErrorResponse"), **_PLAIN},
    example={"error": "Input validation error: `temperature` must be strictly positive", "error_type": "validation"},
)
BROKEN = failure(500, "The engine stopped in the middle.", "Incomplete generation", "incomplete_generation")
GENERATION_ERRORS = (
    REFUSED,
    failure(
        424,
        "The engine failed.",
        "Request failed during generation: Server error: the engine was stopped",
        "generation",
    ),
    failure(429, "All `--max-concurrent-requests` are in use.", "Model is overloaded", "overloaded", retry=True),
    BROKEN,
    failure(503, "The server drains, or its engine is gone.", "unhealthy", "healthcheck", retry=True),
)
FAILED = failure(500, "A generation failed or was refused.", "Incomplete generation", "Incomplete generation")
NO_KEY = Reply(status=401, text="The API key is missing or wrong.", headers=("www-authenticate",))
