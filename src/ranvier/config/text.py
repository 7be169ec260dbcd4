"""`--help`, the usage line, and the page of options, written from the table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from ranvier.config.option import Option, Status, accepts
from ranvier.config.options import EXPORT_OPTIONS, OPTIONS

_WIDTH = 100
_PRECEDENCE = "A flag is stronger than its environment variable, and that is stronger than the default."


def usage(prog: str, positionals: str = "") -> str:
    """Return the usage line and where to find more, for the end of an error message."""
    return f"{_usage_line(prog, positionals)}\nFor every option: {prog} --help\n"


def help_text(options: Iterable[Option], *, prog: str, summary: str, positionals: str = "") -> str:
    """Return what `--help` prints: options under their headings, each with variables, values and default."""
    blocks = [summary, _usage_line(prog, positionals), _PRECEDENCE]
    for section, members in _sections(options):
        blocks.append("\n".join([f"{section}:", *(line for option in members for line in _help_lines(option))]))
    return "\n\n".join(blocks) + "\n"


def options_markdown() -> str:
    """Return the page of options for the docs: a table for each heading, then those of `ranvier export`."""
    lines = ["# Options", "", _PRECEDENCE, "As a variable, a switch is `true` or `false`.", ""]
    lines += _markdown_sections(OPTIONS, "## ")
    lines += ["## `ranvier export`", "", "`ranvier export [OPTIONS] OUTPUT` writes an artifact into a directory.", ""]
    lines += _markdown_table(EXPORT_OPTIONS)
    return "\n".join(lines)


def _usage_line(prog: str, positionals: str) -> str:
    return f"Usage: {prog} [OPTIONS] {positionals}".rstrip()


def _sections(options: Iterable[Option]) -> list[tuple[str, list[Option]]]:
    sections: dict[str, list[Option]] = {}
    for option in options:
        sections.setdefault(option.section, []).append(option)
    return list(sections.items())


def _help_lines(option: Option) -> list[str]:
    notes = [note for note in (*_facts(option), _why(option)) if note]
    body = textwrap.wrap(" ".join([option.help, *notes]), _WIDTH - 10, break_long_words=False, break_on_hyphens=False)
    return [_heading(option), *(" " * 10 + line for line in body)]


def _heading(option: Option) -> str:
    flags = sorted(option.flags, key=len)
    text = ", ".join(flags) if len(flags[0]) == 2 else "    " + ", ".join(flags)
    return f"  {text} <{option.shown_metavar}>" if option.shown_metavar else f"  {text}"


def _facts(option: Option) -> tuple[str, ...]:
    return (
        f"[values: {', '.join(option.working_choices)}]" if option.kind == "choice" else "",
        f"[env: {', '.join(option.variables)}]" if option.variables else "",
        f"[default: {default_text(option)}]" if option.status is Status.HONOURED and option.kind != "switch" else "",
    )


def _why(option: Option) -> str:
    reason = option.refusal if option.status is Status.REFUSED else option.no_effect
    return f"({reason})" if reason else ""


def default_text(option: Option) -> str:
    """Say what holds when the option is not given."""
    if option.kind == "switch":
        return "false"
    return option.default_text if option.default in (None, ()) else str(option.default)


def _markdown_sections(options: Iterable[Option], level: str) -> list[str]:
    lines: list[str] = []
    for section, members in _sections(options):
        lines += [f"{level}{section}", "", *_markdown_table(members)]
    return lines


def _markdown_table(options: Iterable[Option]) -> list[str]:
    rows = [_markdown_row(option) for option in options]
    return ["| flag | variable | default | must be | meaning |", "| --- | --- | --- | --- | --- |", *rows, ""]


def _markdown_row(option: Option) -> str:
    cells = (
        ", ".join(f"`{flag}`" for flag in option.flags),
        ", ".join(f"`{variable}`" for variable in option.variables) or "–",
        default_text(option) if option.status is Status.HONOURED else "–",
        "–" if option.kind == "switch" else accepts(option),
        " ".join(part for part in (option.help, _why(option)) if part),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
