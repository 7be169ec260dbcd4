"""Bodies of `/v1/chat/completions` and `/chat_tokenize`. Names, types and presence are the wire's."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ranvier.api.openai.shared import num_choices, sampling_parameters
from ranvier.api.wire import I32, U32, U64, JsonSchemaConfig, check_u64
from ranvier.errors import ValidationError
from ranvier.service import ChatInput, ChatMessage, GenerateParameters, Grammar, compact_json
from ranvier.service import Tool as ServiceTool
from ranvier.service import ToolChoice as ServiceToolChoice

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Url(Struct, frozen=True):
    """Where an image is."""

    url: str


class TextChunk(Struct, frozen=True, tag_field="type", tag="text"):
    """A piece of text."""

    text: str

    def to_text(self) -> str:
        """As templates get it."""
        return self.text


class ImageChunk(Struct, frozen=True, tag_field="type", tag="image_url"):
    """An image; a text model gets its markdown."""

    image_url: Url

    def to_text(self) -> str:
        """As templates get it."""
        return f"![]({self.image_url.url})"


class FunctionDefinition(Struct, frozen=True):
    """A function's name with its schema, or with the arguments of a call; `parameters` is another name of those."""

    name: str
    description: str | None = None
    arguments: Any = UNSET
    parameters: Any = UNSET

    @property
    def value(self) -> Any:
        """Whichever of the two was given."""
        return self.parameters if self.arguments is UNSET else self.arguments


class ToolCall(Struct, frozen=True):
    """A call that the model has made."""

    id: str
    type: str
    function: FunctionDefinition

    def to_json(self) -> dict[str, Any]:
        """As templates get it: the arguments as a string of JSON. Raises `ValidationError`."""
        value = self.function.value
        arguments = value if isinstance(value, str) else compact_json({} if value is UNSET else value, "tool_calls")
        function = {"description": self.function.description, "name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": self.type, "function": function}


class Message(Struct, frozen=True):
    """A message: text, pieces of text and images, or calls."""

    role: str
    content: str | tuple[TextChunk | ImageChunk, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    name: str | None = None
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        if self.content is None and self.tool_calls is None:
            raise ValueError("Expected `content` or `tool_calls`")

    def to_message(self) -> ChatMessage:
        """The service's value. Content wins over calls unless it is empty. Raises `ValidationError`."""
        if self.tool_calls and not self.content:
            calls = compact_json([call.to_json() for call in self.tool_calls], "tool_calls")
            return ChatMessage(role=self.role, content=calls, is_tool_calls=True)
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(chunk.to_text() for chunk in content)
        return ChatMessage(role=self.role, content=text)


class Tool(Struct, frozen=True):
    """A tool; without a schema it takes no arguments."""

    type: str
    function: FunctionDefinition

    def to_tool(self) -> ServiceTool:
        """The service's value. Raises `ValidationError` for a schema that is not an object."""
        schema = self.function.value
        if schema is UNSET or schema is None:
            schema = {"type": "object", "properties": {}}
        if not isinstance(schema, Mapping):
            raise ValidationError(f"the schema of tool `{self.function.name}` must be a JSON object")
        function = self.function
        return ServiceTool(type=self.type, name=function.name, description=function.description, parameters=schema)


class FunctionName(Struct, frozen=True):
    """The name of a function."""

    name: str


class NamedToolChoice(Struct, frozen=True):
    """One tool, by name."""

    function: FunctionName
    type: str = "function"


ToolChoice = str | NamedToolChoice


class StreamOptions(Struct, frozen=True):
    """`include_usage`: one more event, with the usage, before the end."""

    include_usage: bool = False


class ResponseFormat(Struct, frozen=True):
    """A grammar in TGI's shapes (`value`) or the OpenAI API's (`json_schema`, or none)."""

    type: Literal["json", "json_object", "json_schema", "regex", "text"]
    value: Any = UNSET
    json_schema: JsonSchemaConfig | UnsetType = UNSET

    def __post_init__(self) -> None:
        needs_value = self.type in ("json", "regex") or (self.type == "json_schema" and self.json_schema is UNSET)
        if needs_value and self.value is UNSET:
            raise ValueError("Object missing required field `value`")
        if self.type == "regex" and not isinstance(self.value, str):
            raise ValueError("Expected `str`")
        if self.type == "json_schema" and self.json_schema is UNSET:
            _check_config(self.value)

    def to_grammar(self) -> Grammar | None:
        """The service's value; None where anything may be written."""
        if self.type == "text":
            return None
        if self.type == "regex":
            return Grammar("regex", self.value)
        if isinstance(self.json_schema, JsonSchemaConfig):
            return Grammar("schema", self.json_schema.schema)
        if self.value is UNSET:
            return Grammar("schema", ANY_OBJECT)
        return Grammar("json", self.value["schema"] if self.type == "json_schema" else self.value)


class ChatRequest(Struct, frozen=True):
    """Body of `/v1/chat/completions` and `/chat_tokenize`."""

    messages: tuple[Message, ...]
    model: str | None = None
    max_tokens: U32 | None = None
    max_completion_tokens: U32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | tuple[str, ...] | None = None
    seed: U64 | None = None
    logprobs: bool | None = None
    top_logprobs: U32 | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice | None = None
    tool_prompt: str | None = None
    response_format: ResponseFormat | None = None
    n: U32 | None = None
    logit_bias: list[float] | dict[str, float] | None = None
    top_k: I32 | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_u64(self, "seed")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("duplicate field `max_tokens`: `max_completion_tokens` is another name of it")

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def num_choices(self) -> int:
        """How many answers are wanted. Raises `ValidationError` for none."""
        return num_choices(self.n)

    def to_chat(self) -> ChatInput:
        """Messages, tools and response format. Raises `ValidationError`."""
        response_format = None if self.response_format is None else self.response_format.to_grammar()
        return ChatInput(
            messages=tuple(message.to_message() for message in self.messages),
            tools=None if self.tools is None else tuple(tool.to_tool() for tool in self.tools),
            tool_choice=_tool_choice(self.tool_choice),
            tool_prompt=self.tool_prompt,
            response_format=response_format,
            template_arguments=self.chat_template_kwargs or {},
            next_call_id=_next_call_id(self.messages),
        )

    def to_parameters(self) -> GenerateParameters:
        """The rest. Raises `ValidationError` for what cannot be honoured."""
        return replace(
            sampling_parameters(self),
            top_k=self.top_k,
            typical_p=self.typical_p,
            max_new_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            top_n_tokens=self.top_logprobs,
            logprobs=bool(self.logprobs),
        )


def _check_config(value: object) -> None:
    try:
        msgspec.convert(value, JsonSchemaConfig)
    except msgspec.ValidationError as error:
        # Only what is raised as a ValueError is told with the path of the field.
        raise ValueError(str(error)) from None


def _tool_choice(given: ToolChoice | None) -> ServiceToolChoice:
    if given is None or given == "auto":
        return ServiceToolChoice()
    if given == "none":
        return ServiceToolChoice(kind="none")
    if given == "required":
        return ServiceToolChoice(kind="required")
    name = given if isinstance(given, str) else given.function.name
    return ServiceToolChoice(kind="named", name=name)


def _next_call_id(messages: tuple[Message, ...]) -> str:
    """One more than the highest id of the calls so far; a new UUID where one of them is not a number."""
    ids = [call.id for message in messages for call in message.tool_calls or ()]
    if not ids:
        return "0"
    if not all(call_id.isascii() and call_id.isdigit() and len(call_id) < 20 for call_id in ids):
        return str(uuid.uuid4())
    return str(max(map(int, ids)) + 1)
