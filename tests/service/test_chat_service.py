"""From a chat to prompts and grammars: what the model is shown of tools, and when."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ranvier.errors import TemplateError, ToolError
from ranvier.service import ChatInput, ChatMessage, ChatService, Grammar, PreparedChat, Tool, ToolChoice
from ranvier.service.tools import DEFAULT_TOOL_PROMPT, NO_TOOL_ENTRY
from serving import CHAT_TEMPLATE, HandEngine, make_service

SHOWS_TOOLS = "{{ tools|length if tools else 'no' }} tools;{{ messages[-1].content }}"
FIRST = Tool(name="first", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
SECOND = Tool(name="second", description="The é", parameters={})
ASKED = ChatMessage(role="user", content="Go")
REQUIRED = ToolChoice(kind="required")


def prepare(template: str | None = CHAT_TEMPLATE, **fields: Any) -> PreparedChat:
    async def main() -> PreparedChat:
        chat = ChatInput(**{"messages": (ASKED,), **fields})
        return await ChatService(make_service(HandEngine(), template=template)).prepare(chat)

    return asyncio.run(main())


def schema_of(chat: PreparedChat) -> str:
    assert chat.grammar is not None and chat.grammar.kind == "schema"
    return json.dumps(chat.grammar.value)


def listed(*tools: Tool) -> str:
    return json.dumps([tool.shown() for tool in tools], ensure_ascii=False, separators=(",", ":"))


def test_a_chat_without_tools_is_its_text_and_format() -> None:
    format_ = Grammar("regex", "a")
    chat = prepare(response_format=format_)
    assert (chat.prompt.text, chat.prompt.add_special_tokens) == ("Go", False)
    assert (chat.grammar, chat.has_tools, chat.plain) == (format_, False, None)


def test_the_default_tool_prompt_is_tgis() -> None:
    """Copied from its OpenAPI document, with a line break before and after."""
    assert DEFAULT_TOOL_PROMPT == (
        "\nGiven the functions available, please respond with a JSON for a function call with its proper arguments "
        "that best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of "
        "argument name and its value}.Do not use variables.\n"
    )


@pytest.mark.parametrize("tool_prompt", [None, "", "Choose."])
def test_a_template_without_a_place_for_tools_gets_them_with_the_last_message(tool_prompt: str | None) -> None:
    messages = (ChatMessage(role="system", content="S"), ASKED)
    chat = prepare(messages=messages, tools=(FIRST, SECOND), tool_choice=REQUIRED, tool_prompt=tool_prompt)
    shown = tool_prompt or DEFAULT_TOOL_PROMPT
    assert chat.prompt.text == f"system: SGo\n---\n{listed(FIRST, SECOND)}\n{shown}"


def test_a_template_with_a_place_for_tools_gets_them_there() -> None:
    chat = prepare(SHOWS_TOOLS, tools=(FIRST, SECOND), tool_choice=REQUIRED, tool_prompt="Choose.")
    assert chat.prompt.text == "2 tools;Go\n---\nChoose."


def test_under_auto_the_way_out_is_shown_too_and_the_plain_prompt_has_none_of_it() -> None:
    chat = prepare(tools=(FIRST,), tool_prompt="Choose.", next_call_id="5")
    assert chat.prompt.text == f"Go\n---\n{listed(FIRST, NO_TOOL_ENTRY)}\nChoose."
    assert chat.plain is not None
    assert (chat.plain.prompt.text, chat.plain.grammar, chat.plain.has_tools) == ("Go", None, False)
    assert (chat.call_id, chat.has_tools) == ("5", True)
    assert prepare(SHOWS_TOOLS, tools=(FIRST,), tool_prompt="Choose.").prompt.text == "2 tools;Go\n---\nChoose."


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, SHOWS_TOOLS])
def test_nothing_is_added_to_a_last_message_of_calls_nor_to_no_message(template: str) -> None:
    calls = ChatMessage(role="assistant", content="[calls]", is_tool_calls=True)
    chat = prepare(template, messages=(ASKED, calls), tools=(FIRST,))
    assert chat.prompt.text.endswith("[calls]")
    assert prepare("{{ messages|length }}", messages=(), tools=(FIRST,)).prompt.text == "0"


def test_the_grammar_has_the_tools_that_are_offered() -> None:
    assert "no_tool" in schema_of(prepare(tools=()))
    assert "first" not in schema_of(prepare(tools=()))
    both = schema_of(prepare(tools=(FIRST, SECOND)))
    assert all(name in both for name in ("first", "second", "no_tool"))
    required = schema_of(prepare(tools=(FIRST, SECOND), tool_choice=REQUIRED))
    assert ("first" in required, "second" in required, "no_tool" in required) == (True, True, False)
    named = prepare(tools=(FIRST, SECOND), tool_choice=ToolChoice(kind="named", name="second"))
    assert ("first" in schema_of(named), "no_tool" in schema_of(named), named.plain) == (False, False, None)


@pytest.mark.parametrize("tools", [(), (FIRST,)])
def test_tools_and_a_format_exclude_each_other_even_without_a_template(tools: tuple[Tool, ...]) -> None:
    with pytest.raises(ToolError, match="^Grammar and tools are mutually exclusive$"):
        prepare(None, tools=tools, response_format=Grammar("regex", "a"))


def test_without_a_template_there_is_no_chat() -> None:
    with pytest.raises(TemplateError, match="^template not found$"):
        prepare(None)


def test_where_a_call_is_required_the_template_is_not_asked_for_text_alone() -> None:
    """A regression: a template that needs tools refused to write the prompt that nobody would have used."""
    template = "{{ raise_exception('no tools') if not tools }}{{ messages[-1].content }}"
    assert prepare(template, tools=(FIRST,), tool_choice=REQUIRED, tool_prompt="!").prompt.text == "Go\n---\n!"
    with pytest.raises(TemplateError):
        prepare(template, tools=(FIRST,))


def test_arguments_for_the_template_reach_it_with_tools_and_without() -> None:
    template = "{{ mood }}{{ tools|length if tools }}{{ messages[-1].content }}"
    chat = prepare(template, tools=(FIRST,), tool_prompt="!", template_arguments={"mood": "calm"})
    assert chat.plain is not None
    assert (chat.prompt.text, chat.plain.prompt.text) == ("calm2Go\n---\n!", "calmGo")


def test_reasoning_belongs_to_text_without_a_format() -> None:
    thinks = "{{ messages[-1].content }}<think>{# </think> #}"
    plain = prepare(thinks)
    assert plain.reasoning is not None and plain.reasoning.is_open
    assert prepare(thinks, response_format=Grammar("regex", "a")).reasoning is None
    with_tools = prepare(thinks, tools=(FIRST,))
    assert with_tools.reasoning is None
    assert with_tools.plain is not None and with_tools.plain.reasoning is not None
