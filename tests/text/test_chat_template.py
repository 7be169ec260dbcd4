"""What prompts templates of well-known kinds give, and how a reply is continued."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from chat_templates import (
    AGAIN,
    ANSWER,
    CHATML,
    DEEPSEEK,
    FAMILIES,
    GEMMA,
    GRANITE,
    LLAMA3,
    MISTRAL,
    QWEN3,
    SYSTEM,
    USER,
    WEATHER,
    said,
)
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import library_tokenizer, llama_style
from tokenizers import processors

import smollm2
from ranvier.errors import ModelError, TemplateError
from ranvier.text import ChatTemplate, ReasoningMarkers, Tokenizer, load_chat_template

Message = dict[str, Any]


def template(source: str, **options: Any) -> ChatTemplate:
    return ChatTemplate(source, **{"bos_token": "<s>", "eos_token": "</s>", **options})


def prompt(source: str, *messages: Message, **options: Any) -> str:
    return template(source).render(messages, **options)


# Families


def test_chatml() -> None:
    assert prompt(CHATML, SYSTEM, USER) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_llama_3_trims_content_and_writes_its_tools() -> None:
    text = prompt(LLAMA3, SYSTEM, said("user", "  Hi\n"), extra={"date_string": "26 Jul 2024"})
    assert text == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    with_tools = prompt(LLAMA3, USER, tools=[WEATHER], extra={"date_string": "today"})
    assert f"Today Date: today\n\n{json.dumps(WEATHER, indent=4, ensure_ascii=False)}\n\n<|eot_id|>" in with_tools


def test_qwen_3_writes_tools_and_drops_the_reasoning_of_earlier_turns() -> None:
    thought = said("assistant", "<think>\nHm.\n</think>\n\nHello!")
    assert prompt(QWEN3, USER, thought, AGAIN, tools=[WEATHER]) == (
        "<|im_start|>system\n# Tools\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "Look <outside> & é",'
        ' "arguments": "{\\"type\\": \\"object\\"}"}}\n</tools><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_request_may_set_variables_of_the_template() -> None:
    assert prompt(QWEN3, USER, extra={"enable_thinking": False}).endswith("assistant\n<think>\n\n</think>\n\n")


def test_deepseek_opens_the_reasoning() -> None:
    assert prompt(DEEPSEEK, SYSTEM, USER, ANSWER, AGAIN) == (
        "<s>Be brief.<|User|>Hi<|Assistant|>Hello!</s><|User|>More?<|Assistant|><think>\n"
    )


def test_mistral_puts_the_system_text_before_the_last_question() -> None:
    assert prompt(MISTRAL, SYSTEM, USER, ANSWER, AGAIN) == (
        "<s>[INST] Hi[/INST] Hello!</s>[INST] Be brief.\n\nMore?[/INST]"
    )


def test_gemma_renames_the_assistant() -> None:
    assert prompt(GEMMA, USER, ANSWER, AGAIN) == (
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
        "<start_of_turn>user\nMore?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_granite_writes_documents_and_its_training_marks_mean_nothing() -> None:
    assert prompt(GRANITE, USER, extra={"documents": [{"text": "One."}, {"text": "Two."}]}) == (
        "<|start_of_role|>system<|end_of_role|>You are Granite. Use the documents.<|end_of_text|>\n"
        "<|start_of_role|>documents<|end_of_role|>Document 1\nOne.\n\nDocument 2\nTwo.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
    )


@smollm2.needs_smollm2
def test_smollm2_adds_its_own_system_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(smollm2.tokenizer_config()), encoding="utf-8")
    loaded = load_chat_template(tmp_path, None)
    assert loaded is not None
    text = loaded.render([USER])
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    # Three turns begin; BOS is the same token as the beginning of a turn here.
    assert smollm2.tokenizer().encode(text, add_special_tokens=False).count(1) == 3
    assert (loaded.uses_tools, loaded.reasoning) == (False, None)


def test_the_templates_bos_is_the_only_one() -> None:
    library = type(library_tokenizer(llama_style())).from_str(library_tokenizer(llama_style()).to_str())
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer, text = Tokenizer(library), prompt(LLAMA3, USER)
    assert tokenizer.encode(text, add_special_tokens=False).count(1) == 1
    assert tokenizer.encode(text).count(1) == 2


# What a template may use


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '  a b '.strip().split(' ') }}", "['a', 'b']"),
        ("{{ 'abc'.startswith('ab') }}{{ 'abc'.replace('b', '-') }}{{ ', '.join(['x', 'y']) }}", "Truea-cx, y"),
        ("{{ '{}:{:>3}'.format('a', 7) }}{{ '%s-%02d' % ('b', 3) }}{{ '%s' | format('c') }}", "a:  7b-03c"),
        (
            "{{ '{{\"a\": 2024}} {}'.format(1) }}{{ '100%% of 2024: %(n)d 5000' % {'n': 3} }}",
            '{"a": 2024} 1100% of 2024: 3 5000',
        ),
        ("{{ ['a'] | map('upper') | join }}{{ ['a'] | map('replace', 'a', 'b') | list }}", "A['b']"),
        ("{{ messages[::-1][0].content }}{{ messages[-1]['content'][:1] }}", "HiH"),
        ("{{ messages[0].items() | list }}", "[('role', 'user'), ('content', 'Hi')]"),
        ("{{ 1 ~ 'a' ~ none }}{{ ['a', 1] | join('-') }}{{ 'ab' | replace('a', 'b', 1) }}", "1aNonea-1bb"),
        ("{% for x in 'abc' %}{{ loop.length }}{{ x }}{{ ';' if not loop.last }}{% endfor %}", "3a;3b;3c"),
        ("{% for x in 'abc' if x != 'b' %}{{ loop.index }}{{ x }}{% else %}none{% endfor %}", "1a2c"),
        ("{% for x in 'abc' %}{% if x == 'a' %}{% continue %}{% endif %}{{ x }}{% break %}{% endfor %}", "b"),
        (
            "{% macro m(x) %}<{{ x }}{{ caller() if caller }}>{% endmacro %}{{ m(1) }}{% call m(2) %}c{% endcall %}",
            "<1><2c>",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 %}{% endfor %}{{ ns.n * 3 }}",
            "6",
        ),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x | length }}{{ x | indent(2, first=true) }}", "2  a1"),
        ("{{ 2 ** 10 }}{{ 7 % 4 }}{{ 'ab' * 2 }}{{ [1] + [2] }}", "10243abab[1, 2]"),
        ("{% generation %}{% set x = 1 %}in{% endgeneration %}{{ x }}", "in1"),
        ("{{ unknown }}|{{ messages[0].unknown }}|{{ unknown is defined }}", "||False"),
        ("{{ tools is none }}{{ add_generation_prompt }}", "TrueTrue"),
        ("{{ messages[0]['content'][0]['text'] }}", "Hi"),
    ],
)
def test_the_dialect_is_that_of_the_models(source: str, expected: str) -> None:
    assert prompt(source, USER) == expected


def test_a_block_tag_takes_no_line_of_its_own() -> None:
    assert prompt("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", USER) == "a\n  b\nc"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("tojson", '{"é": "<b> & \'c\'", "a": [1, null]}'),
        ("tojson(ensure_ascii=true)", '{"\\u00e9": "<b> & \'c\'", "a": [1, null]}'),
        ("tojson(indent=1, sort_keys=true)", '{\n "a": [\n  1,\n  null\n ],\n "é": "<b> & \'c\'"\n}'),
        ("tojson(separators=(',', ':'))", '{"é":"<b> & \'c\'","a":[1,null]}'),
    ],
)
def test_json_is_for_models_not_for_pages(call: str, expected: str) -> None:
    assert prompt(f"{{{{ value | {call} }}}}", USER, extra={"value": {"é": "<b> & 'c'", "a": [1, None]}}) == expected


def test_now_is_local_time() -> None:
    before = datetime.now().date()
    text = prompt("{{ strftime_now('%d %b %Y') }}", USER)
    assert before <= datetime.strptime(text, "%d %b %Y").date() <= datetime.now().date()


def test_a_token_that_the_model_has_not_is_empty() -> None:
    source = "[{{ bos_token + '|' + eos_token }}]"
    assert template(source, bos_token=None, eos_token=None).render([USER]) == "[|]"


def test_a_request_replaces_neither_fixed_variables_nor_functions() -> None:
    source = "{{ messages | length }}{{ tools }}{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}"
    source += "{{ strftime_now('%%') }}{{ range(2) | list }}"
    fixed = ("messages", "tools", "bos_token", "eos_token", "add_generation_prompt", "strftime_now", "range")
    extra = dict.fromkeys((*fixed, "the budget of this rendering"), "changed")
    assert prompt(source, USER, extra=extra) == "1None<s></s>True%[0, 1]"


def test_a_rendering_leaves_the_messages_as_they_were() -> None:
    messages = [USER, said("assistant", "Hel")]
    for source in FAMILIES.values():
        template(source).render(messages, tools=[WEATHER])
    assert messages == [said("user", "Hi"), said("assistant", "Hel")]


def test_threads_share_a_template() -> None:
    shared = template(QWEN3)
    messages = [[said("user", f"Question {n}")] * 50 for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(shared.render, messages))
    assert texts == [template(QWEN3).render(each) for each in messages]


# Tools and reasoning


@pytest.mark.parametrize(
    ("source", "uses_tools"),
    [
        (CHATML, False),
        (LLAMA3, True),
        (QWEN3, True),
        ("{# tools #}tools", False),
        ("{% for message in messages %}{{ message.tools }}{% endfor %}", False),
        ("{% macro show() %}{{ tools }}{% endmacro %}{{ show() }}", True),
        ("{% set tools = tools or [] %}", True),
        ("{% set tools = [] %}{{ tools }}", False),
    ],
)
def test_a_template_uses_tools_if_it_reads_the_variable(source: str, uses_tools: bool) -> None:
    assert template(source).uses_tools is uses_tools


def test_a_template_for_tools_is_used_where_tools_are_given() -> None:
    both = template("plain {{ bos_token }}", tool_use_source="tools: {{ tools | length }} {{ bos_token }}")
    assert both.uses_tools
    assert both.render([USER]) == "plain <s>"
    assert both.render([USER], tools=[WEATHER]) == "tools: 1 <s>"
    assert both.render([USER], tools=[]) == "tools: 0 <s>"


@pytest.mark.parametrize(
    ("source", "markers"),
    [
        (CHATML, None),
        (QWEN3, ("<think>", "</think>")),
        ("{{ '<|START_THINKING|><|END_THINKING|>' }}", ("<|START_THINKING|>", "<|END_THINKING|>")),
        ("<seed:think>{{ x }}</seed:think>", ("<seed:think>", "</seed:think>")),
        ("[THINK]...[/THINK]", ("[THINK]", "[/THINK]")),
        ("<think>", None),
    ],
)
def test_the_reasoning_markers_are_those_whose_end_the_template_names(
    source: str, markers: tuple[str, str] | None
) -> None:
    expected = None if markers is None else ReasoningMarkers(start=markers[0], end=markers[1])
    assert template(source).reasoning == expected


# A last message of the assistant is continued


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("ChatML", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!"),
        ("Mistral", "<s>[INST] Hi[/INST] Hello!"),
        ("Gemma", "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello!"),
        ("DeepSeek", "<s><|User|>Hi<|Assistant|>Hello!"),
    ],
)
def test_the_prompt_ends_with_the_message_to_continue(family: str, expected: str) -> None:
    assert prompt(FAMILIES[family], USER, ANSWER) == expected


@pytest.mark.parametrize("content", ["e", "a", "assistant", "<|im_end|>", "Hi", "im_start", "{", "\u00e9"])
def test_what_the_template_writes_itself_is_not_taken_for_the_message(content: str) -> None:
    assert prompt(CHATML, USER, said("assistant", content)) == (
        f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{content}"
    )


@pytest.mark.parametrize("source", [CHATML, LLAMA3])
def test_white_space_at_the_end_of_the_message_is_left_out(source: str) -> None:
    assert prompt(source, USER, said("assistant", "Hello \n\t")).endswith("\nHello")


def test_an_empty_message_is_continued_from_its_beginning() -> None:
    assert prompt(CHATML, USER, said("assistant", "")) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant"


def test_an_edited_message_is_continued_as_edited() -> None:
    assert prompt(DEEPSEEK, USER, said("assistant", "<think>Hm.</think>Hel")) == "<s><|User|>Hi<|Assistant|>Hel"
    assert prompt("{{ messages[-1].content | upper }}!", said("assistant", "hello")) == "HELLO"
    assert prompt("{{ messages[-1].content | tojson }}!", said("assistant", 'a "b')) == '"a \\"b'


def test_a_message_that_the_template_leaves_out_is_not_continued() -> None:
    source = "{{ messages[0].content }}\n{{ ' ' }}{% if add_generation_prompt %}<reply>{% endif %}"
    assert prompt(source, USER, ANSWER) == "Hi\n "


def test_only_a_last_message_of_the_assistant_is_continued() -> None:
    assert prompt(CHATML, USER, ANSWER, AGAIN).endswith("More?<|im_end|>\n<|im_start|>assistant\n")
    assert prompt(CHATML, USER, said("model", "Hel")).endswith("Hel<|im_end|>\n<|im_start|>assistant\n")
    assert prompt("{{ messages | length }}") == "0"


@given(content=st.text(max_size=20))
def test_the_cut_is_where_the_content_last_occurs(content: str) -> None:
    # Between signs that no content has, the content can only be found where the template put it.
    source = "\ufdd1{{ messages[0].content }}\ufdd2{% if add_generation_prompt %}\ufdd3{% endif %}"
    content = content.translate({0xFDD1: None, 0xFDD2: None, 0xFDD3: None})
    whole = f"\ufdd1{content}\ufdd2\ufdd3"
    expected = whole[: whole.rfind(content) + len(content)] if content else "\ufdd1"
    assert prompt(source, said("assistant", content)) == expected.rstrip()


# Errors


@pytest.mark.parametrize(
    ("source", "messages", "text"),
    [
        (GEMMA, [SYSTEM, USER], "syntax error: System role not supported (in <string>:1)"),
        (MISTRAL, [USER, AGAIN], "syntax error: Conversation roles must alternate user/assistant (in <string>:6)"),
        (
            "\n{% macro m() %}\n{{ raise_exception('no') }}{% endmacro %}\n{{ m() }}",
            [USER],
            "syntax error: no (in <string>:3)",
        ),
        ("\n{{ unknown.field }}", [USER], "undefined value: 'unknown' is undefined (in <string>:2)"),
        (LLAMA3, [], "undefined value: list object has no element 0 (in <string>:11)"),
        ("{{ 1 / 0 }}", [USER], "invalid operation: division by zero (in <string>:1)"),
        ("{% for x in 5 %}{% endfor %}", [USER], "invalid operation: 'int' object is not iterable (in <string>:1)"),
        ("{% include 'x' %}", [USER], "invalid operation: no loader for this environment specified (in <string>:1)"),
    ],
)
def test_a_failure_says_why_and_in_which_line(source: str, messages: list[Message], text: str) -> None:
    with pytest.raises(TemplateError) as caught:
        template(source).render(messages)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\n{% if %}", r"not a valid template: Expected an expression.* \(line 2\)"),
        ("{{ 'x' | unknown }}", r"not a valid template: No filter named 'unknown'\. \(line 1\)"),
        ("{% generation %}", r"not a valid template: Unexpected end of template.* \(line 1\)"),
        ("{{ " + "(" * 1000 + ")" * 1000 + " }}", "not a valid template: maximum recursion depth"),
    ],
)
def test_a_text_that_is_no_template_is_refused_at_once(source: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        template(source)
