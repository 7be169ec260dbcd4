"""Requests to the OpenAI routes of a service whose engine plays scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from http_driver import client_of, openai_events_of
from ranvier.core import Event, Limits
from ranvier.service import GenerationService, ServiceLimits
from ranvier.text import Tokenizer
from serving import CHAT_TEMPLATE, END, LONG, PlayingEngine, Script, grammar_checker, make_service, until

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HI: Script = [*b"Hi", END]


def script(text: str) -> Script:
    """One token for each byte, and the end token."""
    return [*text.encode(), END]


def said(content: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The body of a chat; without messages the user says `Yo`."""
    return {"messages": list(messages or [said("Yo")]), **fields}


@dataclass(frozen=True, slots=True)
class Played:
    """A reply with the engine and service that gave it."""

    reply: httpx.Response
    engine: PlayingEngine
    service: GenerationService

    @property
    def json(self) -> Any:
        """The body of a 200."""
        assert self.reply.status_code == 200, self.reply.text
        return self.reply.json()

    @property
    def events(self) -> list[Any]:
        """The JSON of each event of a stream."""
        assert (self.reply.status_code, self.reply.headers["content-type"]) == (200, "text/event-stream")
        return openai_events_of(self.reply.text)

    @property
    def refusal(self) -> tuple[int, str, str]:
        """Status, `error_type` and `error` of a JSON error, which has no header of TGI."""
        assert self.reply.headers["content-type"] == "application/json"
        assert not [name for name in self.reply.headers if name.startswith("x-")]
        body = self.reply.json()
        assert list(body) == ["error", "error_type"]
        return self.reply.status_code, body["error_type"], body["error"]

    @property
    def shape_error(self) -> str:
        """The text of a body that has the wrong shape; neither engine nor metrics have heard of it."""
        assert (self.reply.status_code, self.reply.headers["content-type"]) == (422, "text/plain; charset=utf-8")
        assert self.engine.requests == []
        assert "tgi_" not in self.service.metrics.render()
        return self.reply.text.removeprefix("Failed to deserialize the JSON body into the target type: ")

    @property
    def counts(self) -> dict[str, float]:
        """Requests counted, and those that ended well or in one of the ways to fail."""
        metrics = self.service.metrics
        kinds = ("overloaded", "validation", "template", "generation", "incomplete", "dropped")
        found = {kind: metrics.request_failure.value(err=kind) for kind in kinds}
        found |= {"requests": metrics.request_count.value(), "success": metrics.request_success.value()}
        return {name: value for name, value in found.items() if value}


def play(
    path: str,
    body: object,
    *scripts: Script,
    ending: Callable[[str], Event] | None = None,
    limits: Limits = LONG,
    service_limits: ServiceLimits | None = None,
    template: str | None = CHAT_TEMPLATE,
    tokenizer: Tokenizer | None = None,
    has_grammars: bool = True,
) -> Played:
    """Post `body`, as JSON unless it is bytes; afterwards every permit is free and every request has ended."""

    async def main() -> Played:
        engine = PlayingEngine(*(scripts or [HI]), ending=ending, limits=limits)
        service = make_service(
            engine,
            tokenizer=tokenizer,
            limits=service_limits,
            template=template,
            grammars=grammar_checker() if has_grammars else None,
        )
        async with client_of(service) as client:
            if isinstance(body, bytes):
                reply = await client.post(path, content=body, headers={"content-type": "application/json"})
            else:
                reply = await client.post(path, json=body)
        await until(lambda: engine.num_open == 0, "every request has ended")
        assert service.num_in_flight == 0
        service.close()
        return Played(reply, engine, service)

    return asyncio.run(main())


def texts_by_index(events: Sequence[dict[str, Any]]) -> dict[int, str]:
    """The text of each choice of a chat stream."""
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
    return texts
