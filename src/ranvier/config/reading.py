"""From a command line and an environment to settings.

1. `scan` splits the command line into flags with their texts and positional arguments, without reading any text.
2. `resolve` takes for each option the flag, else the variable, else the default, and parses its text.
3. What is refused raises, what has no effect warns.

A mistake in a flag is a `UsageError` (exit code 2, with the usage line); one in a variable, like everything that is
refused, is an `OptionError` (exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ranvier.config.option import Option, Status, Value, accepts, parse_value
from ranvier.errors import OptionError

DEFAULT = "default"
SECRET = "***"


class UsageError(OptionError):
    """The command line cannot be read: an unknown flag, a missing value, or one that is not what the flag takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The value of one option and its source: "flag `--port`", "environment variable `PORT`" or "default"."""

    option: Option
    value: Value
    source: str

    @property
    def is_given(self) -> bool:
        """Whether somebody gave the value."""
        return self.source != DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A command line, taken apart.

    `flags` maps an option's name to `(flag as written, text)` pairs, several only for a list; a switch has the text
    `true`. `wants` is `help` or `version` when that was asked for; then nothing behind it was looked at.
    """

    flags: Mapping[str, Sequence[tuple[str, str]]]
    positionals: tuple[str, ...]
    wants: str = ""


def scan(argv: Sequence[str], options: Iterable[Option]) -> CommandLine:
    """Take the arguments behind the program's name apart.

    `--flag value`, `--flag=value`, `-f value`, `-fvalue` and switches; `--` ends the flags. A value that begins with
    a dash, and is not a number, must be joined with `=`. Raises `UsageError`.
    """
    by_flag = {flag: option for option in options for flag in option.flags}
    flags: dict[str, list[tuple[str, str]]] = {}
    positionals: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        if token == "--":
            positionals += tokens
        elif not _is_flag(token):
            positionals.append(token)
        else:
            flag, joined = _split(token, by_flag)
            option = _find(flag, by_flag)
            if option.name in ("help", "version"):
                return CommandLine(flags=flags, positionals=tuple(positionals), wants=option.name)
            _add(flags, option, flag, _text_of(option, flag, joined, tokens))
    return CommandLine(flags=flags, positionals=tuple(positionals))


def _is_flag(token: str) -> bool:
    return len(token) > 1 and token[0] == "-" and not (token[1].isdigit() or token[1] == ".")


def _split(token: str, by_flag: Mapping[str, Option]) -> tuple[str, str | None]:
    flag, equals, text = token.partition("=")
    # `-port` is a mistyped `--port`, not `-p` with the value `ort`.
    if token.startswith("--") or "-" + flag in by_flag or token[:2] not in by_flag:
        return flag, text if equals else None
    return token[:2], token[2:].removeprefix("=") if len(token) > 2 else None


def _find(flag: str, by_flag: Mapping[str, Option]) -> Option:
    if flag in by_flag:
        return by_flag[flag]
    near = difflib.get_close_matches(flag if flag.startswith("--") else "-" + flag, by_flag, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise UsageError(f"unknown flag `{flag}`{hint}")


def _text_of(option: Option, flag: str, joined: str | None, tokens: Iterator[str]) -> str:
    if option.kind == "switch":
        if joined is not None:
            raise UsageError(f"flag `{flag}` takes no value. Given: `{joined}`")
        return "true"
    text = next(tokens, None) if joined is None else joined
    if text is None or (joined is None and _is_flag(text)):
        raise UsageError(
            f"flag `{flag}` needs a value: {accepts(option)}. "
            f"A value that begins with a dash is joined to its flag with `=`"
        )
    return text


def _add(flags: dict[str, list[tuple[str, str]]], option: Option, flag: str, text: str) -> None:
    if option.name in flags and option.kind != "list":
        raise UsageError(f"flag `{flag}` is given more than once; give it once")
    flags.setdefault(option.name, []).append((flag, text))


def resolve(
    options: Iterable[Option], line: CommandLine, environ: Mapping[str, str]
) -> tuple[dict[str, Setting], tuple[str, ...]]:
    """Return the settings by option name, and the warnings, both in the order of the options.

    Flag over environment over default; a variable under a flag is not even parsed. Raises `UsageError` for a flag's
    text, `OptionError` for a variable's and for whatever is refused.
    """
    settings: dict[str, Setting] = {}
    warnings: list[str] = []
    for option in options:
        setting, notes = _read(option, line.flags.get(option.name, ()), environ)
        settings[option.name] = setting
        warnings += notes
    for setting in settings.values():
        _refuse(setting)
    warnings += [note for setting in settings.values() for note in _no_effect(setting)]
    return settings, tuple(warnings)


def _read(
    option: Option, given: Sequence[tuple[str, str]], environ: Mapping[str, str]
) -> tuple[Setting, tuple[str, ...]]:
    if given:
        return _from_flag(option, given[-1][0], ",".join(text for _, text in given))
    present = [variable for variable in option.variables if variable in environ]
    if not present:
        return Setting(option=option, value=option.default, source=DEFAULT), ()
    return _from_variable(option, present[0], environ[present[0]]), _shadowed(present, environ)


def _from_flag(option: Option, flag: str, text: str) -> tuple[Setting, tuple[str, ...]]:
    source = f"flag `{flag}`"
    try:
        return Setting(option=option, value=parse_value(option, text), source=source), ()
    except ValueError:
        if not option.is_lenient:
            raise UsageError(_unparsable(option, source, text)) from None
    warning = f"{source} is not {accepts(option)}, so `{option.default}` is used. Given: `{text}`"
    return Setting(option=option, value=option.default, source=DEFAULT), (warning,)


def _from_variable(option: Option, variable: str, text: str) -> Setting:
    source = f"environment variable `{variable}`"
    try:
        return Setting(option=option, value=parse_value(option, text), source=source)
    except ValueError:
        if not option.is_lenient:
            raise OptionError(_unparsable(option, source, text)) from None
    # No warning: container runtimes put the container's name into `HOSTNAME` without anybody's wish.
    return Setting(option=option, value=option.default, source=DEFAULT)


def _unparsable(option: Option, source: str, text: str) -> str:
    return f"{source} must be {accepts(option)}. Given: `{SECRET if option.is_secret and text else text}`"


def _shadowed(present: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    used, *others = present
    return tuple(
        f"environment variable `{other}` is not used, because `{used}` is set to another value"
        for other in others
        if environ[other] != environ[used]
    )


def _refuse(setting: Setting) -> None:
    option, value = setting.option, setting.value
    if not setting.is_given or value is False or value in option.takes:
        return
    if option.takes and option.status is not Status.REFUSED:
        raise OptionError(f"{setting.source} does not take `{value}`: {option.refusal}")
    if option.status is Status.REFUSED:
        raise OptionError(f"{setting.source} is refused: {option.refusal}")


def _no_effect(setting: Setting) -> tuple[str, ...]:
    option = setting.option
    if option.status is not Status.IGNORED or not setting.is_given or setting.value is False:
        return ()
    return (f"{setting.source} has no effect: {option.no_effect}",)
