"""Tool calls: what the model is shown, what it is forced to write, and how that is read while it streams.

The forced output is TGI's: `{"function": {"_name": "<tool>", …arguments…}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ranvier.errors import ToolError, ValidationError

NO_TOOL = "no_tool"
"""The pseudo-tool a model picks to answer with text."""

DEFAULT_TOOL_PROMPT = (
    "\nGiven the functions available, please respond with a JSON for a function call with its proper arguments that "
    "best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of argument "
    "name and its value}.Do not use variables.\n"
)
"""TGI's default of `tool_prompt` (its OpenAPI document, schema ChatRequest)."""


_NAME = "_name"
"""Key of the tool's name among the arguments."""


def compact_json(value: object, field: str) -> str:
    """A value of the request field `field` as JSON on one line. Raises `ValidationError` if it is nested too deeply."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise too_deep(field) from None


def too_deep(field: str) -> ValidationError:
    """The error of a request field that no code of ours can follow to its end."""
    return ValidationError(f"`{field}` is nested too deeply; make it flatter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may call. `parameters` is the JSON Schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]
    description: str | None = None
    type: str = "function"

    def shown(self) -> dict[str, Any]:
        """The tool as templates and prompts show it: the schema as a JSON string. Raises `ValidationError`."""
        arguments = compact_json(self.parameters, "tools")
        function = {"description": self.description, "name": self.name, "arguments": arguments}
        return {"type": self.type, "function": function}


NO_TOOL_ENTRY = Tool(
    name=NO_TOOL,
    description="Open ended response with no specific tool selected",
    parameters={
        "type": "object",
        "properties": {"content": {"type": "string", "description": "The response content"}},
        "required": ["content"],
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """`auto`: the model may answer with text; `required`: one of the tools; `named`: that of `name`."""

    kind: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""


def offered(tools: Sequence[Tool], choice: ToolChoice) -> tuple[Tool, ...]:
    """The tools that the model may pick from; none means that it answers with text.

    Raises `ToolError` when the one that was named does not exist, or a tool uses a name that the forced output needs.
    """
    if choice.kind == "none":
        return ()
    _check_names(tools)
    if choice.kind == "required":
        return tuple(tools)
    if choice.kind == "auto":
        return (*tools, NO_TOOL_ENTRY)
    named = tuple(tool for tool in tools if tool.name == choice.name)[:1]
    if not named:
        raise ToolError(f"Tool with name {choice.name} not found")
    return named


def _check_names(tools: Sequence[Tool]) -> None:
    for tool in tools:
        if tool.name == NO_TOOL:
            raise ToolError(f"`{NO_TOOL}` means that no tool is called; give the tool another name")
        arguments = tool.parameters.get("properties")
        if isinstance(arguments, Mapping) and _NAME in arguments:
            raise ToolError(f"`{_NAME}` holds the name of the tool; rename that argument of tool `{tool.name}`")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A finished call; `arguments` is compact JSON, and can be written as UTF-8."""

    name: str
    arguments: str


def parse_tool_call(text: str) -> ToolCall:
    """The call in a forced output. Raises `ToolError` when it is not whole, for example cut by `max_tokens`."""
    try:
        function = json.loads(text)["function"]
        name = function.pop(_NAME)
        arguments = json.dumps(function, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ToolError(f"Failed to parse generated text: {error} {text}") from None
    return ToolCall(_encodable(str(name)), _encodable(arguments))


def _encodable(text: str) -> str:
    """Half of a surrogate pair, which a model may write as an escape, as that escape: it has no UTF-8."""
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


@dataclass(frozen=True, slots=True)
class ToolPart:
    """A piece of a streaming call: the name once, with the opening brace; then raw text of the arguments."""

    name: str | None
    arguments: str


_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXT = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_HEAD = re.compile(r'\s*\{\s*"function"\s*:\s*\{\s*"_name"\s*:\s*(' + _TEXT + r")\s*([,}])")


class ToolCallReader:
    """Reads a forced output as it is generated. The parts' arguments joined are the arguments' JSON."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._head = ""
        self._depth = 1
        self._is_in_string = False
        self._is_escaped = False

    @property
    def is_done(self) -> bool:
        """Whether the arguments are whole."""
        return self.name is not None and self._depth == 0

    def push(self, text: str) -> ToolPart:
        """Take the next piece of the output; what it adds, which may be nothing."""
        if self.name is not None:
            return ToolPart(None, self._inside(text))
        self._head += text
        match = _HEAD.match(self._head)
        if match is None:
            return ToolPart(None, "")
        self.name = json.loads(match[1])
        if match[2] == "}":
            self._depth = 0
            return ToolPart(self.name, "{}")
        return ToolPart(self.name, "{" + self._inside(self._head[match.end() :]))

    def _inside(self, text: str) -> str:
        """The part of `text` that belongs to the arguments: up to the brace that closes them."""
        for index, character in enumerate(text):
            if self._depth == 0:
                return text[:index]
            self._step(character)
        return text

    def _step(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif self._is_in_string:
            self._is_escaped = character == "\\"
            self._is_in_string = character != '"'
        elif character == '"':
            self._is_in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
