"""Chat templates: from messages to the text of a prompt.

Where a model keeps its template and what a template may use is the rule of `transformers`; where two files hold one,
and that a last message of the assistant is continued, is TGI's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ranvier.errors import ModelError, OptionError
from ranvier.text.json_file import read_json_object
from ranvier.text.reasoning import ReasoningMarkers, markers_in
from ranvier.text.template_engine import TemplateProgram

_CUT = "\ufdd0"
"""Put at the end of the message that is continued, to find the place again. No character: text does not hold it."""

_FIRST_TEXT = "messages[0]['content'][0]['text']"


class ChatTemplate:
    """A model's chat template, compiled once. Any number of threads may render at once."""

    def __init__(
        self, source: str, *, bos_token: str | None, eos_token: str | None, tool_use_source: str | None = None
    ) -> None:
        """Compile `source`, and `tool_use_source`: what is used in its place where tools are given.

        A token that the model has not is `""` for the template. Raises ModelError if a source is not a template.
        """
        self._program = _compile(source)
        self._tool_program = self._program if tool_use_source is None else _compile(tool_use_source)
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._reasoning = markers_in(source)

    @property
    def uses_tools(self) -> bool:
        """Whether tools given to `render` can show in its text."""
        return "tools" in self._tool_program.variables

    @property
    def reasoning(self) -> ReasoningMarkers | None:
        """The markers around this model's reasoning; None if its template names none that are known."""
        return self._reasoning

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, each with `role` and `content`, both text. Tokenize it without special tokens.

        `extra` are further variables for the template; they do not replace those that are always there (`messages`,
        `tools`, `bos_token`, `eos_token`, `add_generation_prompt`) nor its functions.
        A last message of the assistant is continued: the text ends with it, without white space. If the template
        leaves that message out, the text is whole, only without a generation prompt.
        Raises TemplateError if the template refuses the messages, fails, or exceeds the limits of `template_engine`.
        """
        program = self._program if tools is None else self._tool_program
        variables = {
            **(extra or {}),
            **self._tokens,
            "messages": [dict(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "add_generation_prompt": True,
        }
        if not _is_continued(messages):
            return program.render(variables)
        return _continued(program, variables)


def _compile(source: str) -> TemplateProgram:
    # Content is always text here; some templates look into a list of parts without asking.
    return TemplateProgram(source.replace(_FIRST_TEXT, "messages[0]['content']"))


def _is_continued(messages: Sequence[Mapping[str, Any]]) -> bool:
    return bool(messages) and messages[-1].get("role") == "assistant" and isinstance(messages[-1].get("content"), str)


def _continued(program: TemplateProgram, variables: Mapping[str, Any]) -> str:
    """The text up to the end of the last message.

    Searching it for the message's content, as TGI does, goes wrong with a short one (`e` is found again in
    `<|im_end|>`, `a` in the generation prompt) and with a template that edits it; a mark goes where the content goes.
    """
    *before, last = variables["messages"]
    marked = program.render({**variables, "messages": [*before, {**last, "content": last["content"] + _CUT}]})
    text, found, _ = marked.rpartition(_CUT)
    return text.rstrip() if found else program.render({**variables, "add_generation_prompt": False})


def load_chat_template(directory: Path, tokenizer_config_path: Path | None) -> ChatTemplate | None:
    """The template of the model in `directory`; None if it has none.

    The first of these that has a template: the file `tokenizer_config_path` if given, `chat_template.json`,
    `chat_template.jinja`, `tokenizer_config.json`, `processor_config.json`. (TGI reads no `.jinja`. `transformers`
    lets it replace the one in `tokenizer_config.json`, and prefers `chat_template.json` where it reads that.)
    Of several named templates it is the one named `default`, and `tool_use`, if there, where tools are given, as in
    `transformers`. The special tokens are those of `tokenizer_config_path`, else of `tokenizer_config.json`.
    Raises ModelError, which names the file, for a damaged one, and OptionError if `tokenizer_config_path` is missing.
    """
    given = _given_config(tokenizer_config_path)
    own_path = directory / "tokenizer_config.json"
    own = read_json_object(own_path)
    sources = [(tokenizer_config_path or own_path, given), _json_source(directory / "chat_template.json")]
    sources += [_jinja_source(directory / "chat_template.jinja"), (own_path, own)]
    sources += [_json_source(directory / "processor_config.json")]
    path, value = next(
        ((path, value) for path, config in sources if (value := config.get("chat_template")) is not None), (None, None)
    )
    return None if path is None else _from_value(path, value, {**own, **given})


def _given_config(path: Path | None) -> dict[str, Any]:
    if path is not None and not path.is_file():
        raise OptionError(f"`tokenizer_config_path` must be a file like `tokenizer_config.json`. Given: {path}")
    return {} if path is None else read_json_object(path)


def _json_source(path: Path) -> tuple[Path, dict[str, Any]]:
    return path, read_json_object(path)


def _jinja_source(path: Path) -> tuple[Path, dict[str, Any]]:
    if not path.is_file():
        return path, {}
    try:
        return path, {"chat_template": path.read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not readable as UTF-8 text: {error}") from None


def _from_value(path: Path, value: object, tokens: Mapping[str, Any]) -> ChatTemplate | None:
    """The template from what a file has as `chat_template`."""
    templates = _named(path, value)
    if "default" not in templates:
        return None
    try:
        return ChatTemplate(
            templates["default"],
            bos_token=_token(tokens.get("bos_token")),
            eos_token=_token(tokens.get("eos_token")),
            tool_use_source=templates.get("tool_use"),
        )
    except ModelError as error:
        raise ModelError(f"{path}: `chat_template` is {error}") from None


def _named(path: Path, value: object) -> dict[str, str]:
    """Templates by name; one without a name is `default`."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        named: object = {item.get("name"): item.get("template") for item in value}
    else:
        named = {"default": value} if isinstance(value, str) else value
    if isinstance(named, dict) and all(isinstance(text, str) for pair in named.items() for text in pair):
        return named
    raise ModelError(f"{path}: `chat_template` must be text, or a list of objects with `name` and `template`")


def _token(value: object) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
