"""What is read from an artifact's text files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ranvier.errors import ModelError
from ranvier.service import load_model_text
from serving import END, MARK, byte_tokenizer


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer()._library.to_str(), encoding="utf-8")
    return tmp_path


def write(directory: Path, name: str, value: object) -> None:
    (directory / name).write_text(json.dumps(value), encoding="utf-8")


def eos_token_ids(directory: Path) -> frozenset[int]:
    return load_model_text(directory, "m", None).eos_token_ids


def test_the_names_are_those_given(artifact: Path) -> None:
    text = load_model_text(artifact, "org/model", "abc123")
    assert (text.model_id, text.model_sha) == ("org/model", "abc123")
    assert text.tokenizer.encode("ab") == [97, 98]


def test_a_model_without_end_tokens_has_none(artifact: Path) -> None:
    assert eos_token_ids(artifact) == frozenset()


@pytest.mark.parametrize("name", ["<|end|>", {"content": "<|end|>", "special": True}])
def test_the_tokenizers_end_token_may_be_a_string_or_an_object(artifact: Path, name: object) -> None:
    write(artifact, "tokenizer_config.json", {"eos_token": name})
    assert eos_token_ids(artifact) == {END}


@pytest.mark.parametrize("ids", [MARK, [MARK], [END, MARK]])
def test_the_generation_configs_end_tokens_are_added_to_the_tokenizers(artifact: Path, ids: object) -> None:
    write(artifact, "tokenizer_config.json", {"eos_token": "<|end|>"})
    write(artifact, "generation_config.json", {"eos_token_id": ids})
    assert eos_token_ids(artifact) == {END, MARK}


def test_the_model_config_counts_only_where_nothing_else_names_an_end_token(artifact: Path) -> None:
    write(artifact, "config.json", {"eos_token_id": 5})
    assert eos_token_ids(artifact) == {5}
    write(artifact, "generation_config.json", {"eos_token_id": MARK})
    assert eos_token_ids(artifact) == {MARK}


@pytest.mark.parametrize("value", [None, "256", True, [None, "x"], {}])
def test_an_end_token_that_is_no_id_is_left_out(artifact: Path, value: object) -> None:
    write(artifact, "generation_config.json", {"eos_token_id": value})
    write(artifact, "tokenizer_config.json", {"eos_token": "not in the vocabulary"})
    assert eos_token_ids(artifact) == frozenset()


def test_the_chat_template_is_the_artifacts_unless_a_path_is_given(artifact: Path, tmp_path: Path) -> None:
    assert load_model_text(artifact, "m", None).chat_template is None
    write(artifact, "tokenizer_config.json", {"chat_template": "own {{ eos_token }}", "eos_token": "<|end|>"})
    write(tmp_path, "given.json", {"chat_template": "given {{ eos_token }}"})
    messages = [{"role": "user", "content": "Hi"}]
    own = load_model_text(artifact, "m", None).chat_template
    given = load_model_text(artifact, "m", None, tmp_path / "given.json").chat_template
    assert own is not None and given is not None
    assert (own.render(messages), given.render(messages)) == ("own <|end|>", "given <|end|>")


def test_a_chat_template_that_does_not_parse_stops_the_start(artifact: Path) -> None:
    (artifact / "chat_template.jinja").write_text("{% endif %}", encoding="utf-8")
    with pytest.raises(ModelError, match="chat_template.jinja: `chat_template` is not a valid template: "):
        load_model_text(artifact, "m", None)


@pytest.mark.parametrize(("content", "reason"), [("{", "not valid JSON: "), ("[]", "a JSON object is needed")])
def test_a_damaged_file_is_named(artifact: Path, content: str, reason: str) -> None:
    path = artifact / "generation_config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_model_text(artifact, "m", None)
    assert str(caught.value).startswith(f"{path}: {reason}")
