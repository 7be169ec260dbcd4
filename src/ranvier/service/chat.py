"""Chat: messages to a prompt, and generated text to an answer, a tool call or reasoning.

With tools the output is forced into a call. Under `auto` the model may pick the pseudo-tool `no_tool`: then the
request is generated again as text, without tools.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import msgspec

from ranvier.errors import TemplateError, ToolError
from ranvier.grammar import tool_schema
from ranvier.service.generation import Finished, StreamItem, TokenPiece
from ranvier.service.parameters import GenerateParameters, Grammar
from ranvier.service.prompt import NO_ORIGIN, Origin, Prompt
from ranvier.service.service import GenerationService
from ranvier.service.tools import (
    DEFAULT_TOOL_PROMPT,
    NO_TOOL,
    NO_TOOL_ENTRY,
    Tool,
    ToolCall,
    ToolCallReader,
    ToolChoice,
    ToolPart,
    compact_json,
    offered,
    parse_tool_call,
    too_deep,
)
from ranvier.text import ChatTemplate, ReasoningMarkers, ReasoningSplitter, is_open_at_end

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """A message as templates see it. `is_tool_calls`: its content is the JSON of calls the model has made."""

    role: str
    content: str
    is_tool_calls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """Messages, and what the answer may look like. `tools` None: no tools were given; `()`: an empty list was.

    `next_call_id`: id of a call that a stream makes.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice = ToolChoice()
    tool_prompt: str | None = None
    response_format: Grammar | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    next_call_id: str = "0"


_MESSAGE_WEIGHT = 64
"""Characters that take as long to tokenize as one more message takes to render."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """How the model marks its reasoning, and whether the prompt has opened it already."""

    markers: ReasoningMarkers
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedChat:
    """A chat as a prompt. `plain` is the prompt without tools, where the model may decline them."""

    prompt: Prompt
    grammar: Grammar | None
    has_tools: bool
    plain: PreparedChat | None
    reasoning: Reasoning | None
    call_id: str


class ChatDelta(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one token adds to an answer. `finished` is set on the last.

    `tool` is None in an answer of text. Parts without a name and text come before the model has picked a tool; what
    follows them may still be text.
    """

    piece: TokenPiece
    content: str
    reasoning: str = ""
    tool: ToolPart | None = None
    finished: Finished | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """A whole answer: text, with reasoning where the model gave some, or a tool call. `prompt` is what it answers."""

    content: str
    reasoning: str
    tool_call: ToolCall | None
    finished: Finished
    prompt: Prompt


class ChatService:
    """Chat over a generation service. All methods run on the event loop."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def prepare(self, chat: ChatInput) -> PreparedChat:
        """Write the prompt. Raises `TemplateError`, `ToolError`, or `ValidationError` for what no JSON can hold.

        Only a template that fails is counted as a failed request, as in TGI.
        """
        if chat.response_format is not None and chat.tools is not None:
            raise ToolError("Grammar and tools are mutually exclusive")
        tools = offered(chat.tools, chat.tool_choice) if chat.tools is not None else ()
        if not tools:
            return await self._prepare_text(chat)
        text = await self._render(chat, _with_tools(chat, tools, self._template.uses_tools), tools)
        callable_tools = [(tool.name, tool.parameters) for tool in tools if tool is not NO_TOOL_ENTRY]
        may_decline = len(callable_tools) < len(tools)
        return PreparedChat(
            prompt=Prompt(text=text, add_special_tokens=False),
            # Either the tools stand in the text, or the template has shortened them to little.
            grammar=await self._service.off_loop(len(text), partial(_forced, callable_tools, may_decline)),
            has_tools=True,
            plain=await self._prepare_text(chat) if may_decline else None,
            reasoning=None,
            call_id=chat.next_call_id,
        )

    async def _prepare_text(self, chat: ChatInput) -> PreparedChat:
        text = await self._render(chat, chat.messages, ())
        return PreparedChat(
            prompt=Prompt(text=text, add_special_tokens=False),
            grammar=chat.response_format,
            has_tools=False,
            plain=None,
            reasoning=self._reasoning(text, chat) if chat.response_format is None else None,
            call_id=chat.next_call_id,
        )

    def _reasoning(self, prompt: str, chat: ChatInput) -> Reasoning | None:
        markers = self._template.reasoning
        if markers is None:
            return None
        last = chat.messages[-1] if chat.messages else None
        continued = last.content if last is not None and last.role == "assistant" else ""
        return Reasoning(markers=markers, is_open=is_open_at_end(prompt, markers, continued=continued))

    @property
    def _template(self) -> ChatTemplate:
        template = self._service.text.chat_template
        if template is None:
            raise TemplateError("template not found")
        return template

    async def _render(self, chat: ChatInput, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> str:
        template = self._template
        values = [{"role": message.role, "content": message.content} for message in messages]
        shown = [tool.shown() for tool in tools] or None
        work = partial(template.render, values, tools=shown, extra=chat.template_arguments)
        with self._service.failures_counted():
            # An empty message, too, is a round of the template's loop; schemas and arguments are printed or walked.
            weight = sum(_MESSAGE_WEIGHT + len(message.content) for message in messages)
            weight += sum(len(tool["function"]["arguments"]) for tool in shown or ())
            return await self._service.off_loop(weight, work)

    async def answers(
        self, chat: PreparedChat, parameters: GenerateParameters, count: int, origin: Origin = NO_ORIGIN
    ) -> list[ChatAnswer]:
        """`count` answers. Raises a `RequestError`."""
        if not chat.has_tools:
            parameters = replace(parameters, grammar=chat.grammar)
            finished = await self._service.choices(chat.prompt, parameters, count, origin)
            return [_text_answer(chat, each) for each in finished]
        return await all_of([self._tool_answer(chat, parameters, index, origin) for index in range(count)])

    async def _tool_answer(
        self, chat: PreparedChat, parameters: GenerateParameters, index: int, origin: Origin
    ) -> ChatAnswer:
        deltas = [delta async for delta in self.stream(chat, parameters, index, origin)]
        finished, is_call = deltas[-1].finished, deltas[-1].tool is not None
        assert finished is not None, "a stream ends with what is finished"
        return ChatAnswer(
            content="".join(delta.content for delta in deltas),
            reasoning="".join(delta.reasoning for delta in deltas),
            tool_call=parse_tool_call(finished.text) if is_call else None,
            finished=finished,
            prompt=chat.prompt if is_call or chat.plain is None else chat.plain.prompt,
        )

    async def stream(
        self, chat: PreparedChat, parameters: GenerateParameters, index: int = 0, origin: Origin = NO_ORIGIN
    ) -> AsyncGenerator[ChatDelta, None]:
        """Token by token; closing the iterator frees the slot. Raises a `RequestError`."""
        tokens = self._service.stream(chat.prompt, replace(parameters, grammar=chat.grammar), index, origin)
        async with contextlib.aclosing(tokens):
            if not chat.has_tools:
                async for delta in _text_deltas(tokens, chat.reasoning):
                    yield delta
                return
            reader = ToolCallReader()
            async for item in tokens:
                part = reader.push(item.piece.visible)
                if chat.plain is None or reader.name != NO_TOOL:
                    yield ChatDelta(piece=item.piece, content="", tool=part, finished=item.finished)
        if chat.plain is not None and reader.name == NO_TOOL:
            async with contextlib.aclosing(self.stream(chat.plain, parameters, index, origin)) as deltas:
                async for delta in deltas:
                    yield delta


def _forced(tools: Sequence[tuple[str, Mapping[str, Any]]], may_decline: bool) -> Grammar:
    try:
        return Grammar("schema", tool_schema(tools, NO_TOOL if may_decline else None))
    except RecursionError:
        raise too_deep("tools") from None


def _with_tools(chat: ChatInput, tools: Sequence[Tool], template_shows_them: bool) -> tuple[ChatMessage, ...]:
    """The messages with the tool prompt at the end of the last; and with the tools where the template has no place."""
    if not chat.messages or chat.messages[-1].is_tool_calls:
        return chat.messages
    prompt = chat.tool_prompt or DEFAULT_TOOL_PROMPT
    if template_shows_them:
        added = f"\n---\n{prompt}"
    else:
        listed = compact_json([tool.shown() for tool in tools], "tools")
        added = f"\n---\n{listed}\n{prompt}"
    last = chat.messages[-1]
    return (*chat.messages[:-1], replace(last, content=last.content + added))


async def _text_deltas(
    tokens: AsyncGenerator[StreamItem, None], reasoning: Reasoning | None
) -> AsyncGenerator[ChatDelta, None]:
    splitter = None if reasoning is None else _Splitter(reasoning)
    async for item in tokens:
        thought, content = ("", item.piece.visible) if splitter is None else splitter.push(item)
        yield ChatDelta(piece=item.piece, content=content, reasoning=thought, finished=item.finished)


class _Splitter:
    """A reasoning splitter over tokens: its markers may be special tokens, which are not visible otherwise."""

    def __init__(self, reasoning: Reasoning) -> None:
        self._splitter = ReasoningSplitter(reasoning.markers, is_open=reasoning.is_open)
        self._markers = (reasoning.markers.start, reasoning.markers.end)

    def push(self, item: StreamItem) -> tuple[str, str]:
        thought, content = self._splitter.push(self._visible(item.piece))
        if item.finished is not None:
            rest_thought, rest_content = self._splitter.flush()
            return thought + rest_thought, content + rest_content
        return thought, content

    def _visible(self, piece: TokenPiece) -> str:
        return piece.text if piece.text.strip() in self._markers else piece.visible


def _text_answer(chat: PreparedChat, finished: Finished) -> ChatAnswer:
    thought, content = ("", finished.text) if chat.reasoning is None else _divided(finished, chat.reasoning)
    return ChatAnswer(content=content, reasoning=thought, tool_call=None, finished=finished, prompt=chat.prompt)


def _divided(finished: Finished, reasoning: Reasoning) -> tuple[str, str]:
    """Reasoning and content."""
    splitter, thoughts, contents = _Splitter(reasoning), "", ""
    last = len(finished.tokens) - 1
    for index, piece in enumerate(finished.tokens):
        thought, content = splitter.push(StreamItem(piece, finished if index == last else None))
        thoughts, contents = thoughts + thought, contents + content
    return thoughts, contents


async def all_of(work: Sequence[Awaitable[T]]) -> list[T]:
    """The results in order; when one fails the others are cancelled, and its error is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
