"""What every command does with its arguments: help, version, usage mistakes, then settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ranvier import __version__
from ranvier.config.option import Option, Status, Value
from ranvier.config.reading import CommandLine, Setting, UsageError, resolve, scan
from ranvier.config.text import help_text, usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Settings by option name, sentences to log, and the arguments that are not flags."""

    settings: Mapping[str, Setting]
    warnings: tuple[str, ...]
    positionals: tuple[str, ...]


def read_command(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    options: Sequence[Option],
    prog: str,
    summary: str,
    positionals: Sequence[str] = (),
) -> Command:
    """Read a command that takes `options` and exactly the named `positionals`.

    Writes help or version to stdout and raises `SystemExit(0)`; writes a usage mistake to stderr and raises
    `SystemExit(2)`. Raises `OptionError` as `resolve` does.
    """
    placeholders = " ".join(positionals)
    try:
        line = scan(argv, options)
        if line.wants == "help":
            _leave(help_text(options, prog=prog, summary=summary, positionals=placeholders))
        if line.wants == "version":
            _leave(f"{prog} {__version__}\n")
        _check_positionals(line, positionals)
        settings, warnings = resolve(options, line, environ)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n\n{usage(prog, placeholders)}")
        raise SystemExit(2) from None
    return Command(settings=settings, warnings=warnings, positionals=line.positionals)


def _leave(text: str) -> None:
    sys.stdout.write(text)
    raise SystemExit(0)


def _check_positionals(line: CommandLine, names: Sequence[str]) -> None:
    given = line.positionals
    if len(given) > len(names):
        raise UsageError(f"unexpected argument `{given[len(names)]}`; options begin with `--`")
    if len(given) < len(names):
        raise UsageError(f"the argument {names[len(given)]} is missing")


def values_by_field(
    settings: Mapping[str, Setting], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return values and sources of the honoured options by config field, `help` and `version` left out.

    Where options share a field, the first one that was given counts. A leading `~` of a path is replaced by `HOME`
    of the environment.
    """
    chosen: dict[str, Setting] = {}
    for setting in settings.values():
        option = setting.option
        if option.status is not Status.HONOURED or option.name in ("help", "version"):
            continue
        if option.field_name not in chosen or not chosen[option.field_name].is_given:
            chosen[option.field_name] = setting
    values = {name: _final_value(setting, environ) for name, setting in chosen.items()}
    return values, {name: setting.source for name, setting in chosen.items()}


def _final_value(setting: Setting, environ: Mapping[str, str]) -> Value:
    value = setting.value
    if setting.option.kind == "path" and isinstance(value, str) and (value + "/").startswith("~/"):
        return (environ.get("HOME") or os.path.expanduser("~")) + value[1:]
    return value
