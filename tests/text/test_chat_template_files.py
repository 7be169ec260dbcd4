"""Which file of a model the chat template comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ranvier.errors import ModelError, OptionError
from ranvier.text import ChatTemplate, load_chat_template

SOURCES = ["given.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json", "processor_config.json"]
"""The first of these that has a template wins; `given.json` is what `--tokenizer-config-path` names."""


def write(directory: Path, name: str, content: Any) -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_template(directory: Path, name: str, source: str) -> Path:
    return write(directory, name, source if name.endswith(".jinja") else {"chat_template": source})


def rendered(directory: Path, given: Path | None = None, *, tools: list[dict[str, Any]] | None = None) -> str:
    template = load_chat_template(directory, given)
    assert isinstance(template, ChatTemplate)
    return template.render([{"role": "user", "content": "Hi"}], tools=tools)


@pytest.mark.parametrize("count", range(1, len(SOURCES) + 1))
def test_the_first_file_with_a_template_wins(tmp_path: Path, count: int) -> None:
    present = SOURCES[-count:]
    for name in present:
        write_template(tmp_path, name, name)
    given = tmp_path / "given.json" if "given.json" in present else None
    assert rendered(tmp_path, given) == present[0]


def test_a_file_without_a_template_is_passed_over(tmp_path: Path) -> None:
    given = write(tmp_path, "given.json", {"eos_token": "</s>"})
    write(tmp_path, "chat_template.json", {"chat_template": None})
    write(tmp_path, "tokenizer_config.json", {})
    assert load_chat_template(tmp_path, given) is None
    write_template(tmp_path, "processor_config.json", "found")
    assert rendered(tmp_path, given) == "found"


def test_a_model_without_files_has_no_template(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path, None) is None


NAMED = [
    {"name": "rag", "template": "rag"},
    {"name": "tool_use", "template": "{{ tools | length }} tools"},
    {"name": "default", "template": "default"},
]


@pytest.mark.parametrize("value", [NAMED, {item["name"]: item["template"] for item in NAMED}])
def test_of_several_the_default_is_used_and_another_where_tools_are_given(tmp_path: Path, value: object) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": value})
    assert rendered(tmp_path) == "default"
    assert rendered(tmp_path, tools=[{}, {}]) == "2 tools"


def test_without_one_for_tools_the_default_gets_them(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": [{"name": "default", "template": "{{ tools }}"}]})
    assert rendered(tmp_path, tools=[{}]) == "[{}]"


@pytest.mark.parametrize("value", [[], NAMED[:2]])
def test_several_without_a_default_are_none(tmp_path: Path, value: object) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": value})
    write_template(tmp_path, "processor_config.json", "not reached")
    assert load_chat_template(tmp_path, None) is None


@pytest.mark.parametrize(
    ("config", "given", "expected"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, {}, "<s></s>"),
        ({"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None}, {}, "<s>"),
        ({"bos_token": "<s>", "eos_token": "</s>"}, {"eos_token": {"content": "<end>"}}, "<s><end>"),
        ({"bos_token": 5, "eos_token": {"id": 2}}, {}, ""),
    ],
)
def test_special_tokens_are_text_or_objects(
    tmp_path: Path, config: dict[str, object], given: dict[str, object], expected: str
) -> None:
    write(tmp_path, "tokenizer_config.json", config)
    write_template(tmp_path, "chat_template.jinja", "{{ bos_token }}{{ eos_token }}")
    assert rendered(tmp_path, write(tmp_path, "given.json", given)) == expected


# Damage


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith(".json")])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON: "),
        ("[]", "a JSON object is needed"),
        ('{"chat_template": 5}', "`chat_template` must be text, or a list of objects with `name` and `template`"),
        ('{"chat_template": [{"name": "default"}]}', "`chat_template` must be text, or a list of objects with"),
        ('{"chat_template": ["x"]}', "`chat_template` must be text, or a list of objects with `name` and `template`"),
        ('{"chat_template": "{% if %}"}', "`chat_template` is not a valid template: Expected an expression"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, reason: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(ModelError) as caught:
        load_chat_template(tmp_path, path if name == "given.json" else None)
    assert str(caught.value).startswith(f"{path}: {reason}")


def test_a_jinja_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"\xff")
    with pytest.raises(ModelError) as caught:
        load_chat_template(tmp_path, None)
    assert str(caught.value).startswith(f"{path}: not readable as UTF-8 text: ")


def test_a_path_given_that_is_no_file_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        load_chat_template(tmp_path, tmp_path / "missing.json")
    expected = "`tokenizer_config_path` must be a file like `tokenizer_config.json`. Given: "
    assert str(caught.value) == f"{expected}{tmp_path / 'missing.json'}"
