"""What one option is, and how its text becomes a value."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from ranvier.errors import OptionError

Kind: TypeAlias = Literal["switch", "whole", "decimal", "text", "path", "address", "choice", "list"]
Value: TypeAlias = "str | int | float | bool | tuple[str, ...] | None"

OURS = "Not in TGI"
"""Heading of the options that TGI does not have."""

U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1

_WHOLE = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII)


class Status(Enum):
    """What giving an option leads to."""

    HONOURED = "honoured"
    IGNORED = "accepted without effect"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row of the table: everything that is known about one option.

    * `flags`: the spellings on the command line; the first is the name. A one-letter flag begins with one dash.
    * `kind`: what its text must be. A `switch` takes no value as a flag, `true` or `false` as a variable;
      a `list` may be repeated, and its text is comma separated.
    * `env`: environment variables, the first that is set wins. None: the name upper-cased; empty: no variable.
    * `default`: a value of the kind, or None. `default_text` then says what None leads to.
    * `minimum`, `maximum`: inclusive bounds of a number. `zero_text`: the whole message when the value is 0.
    * `choices`: all texts of a `choice`, compared without case; `hidden_choices` are not shown.
    * `synonyms`: of a `choice`, pairs of another text that is understood and the choice that it means.
    * `takes`: if not empty, the only values that work; others are refused with `refusal`.
    * `no_effect`: of an ignored option, why. `refusal`: why it, or a value of it, is refused and what to do instead.
    * `group`: the heading in help and docs; ignored and refused options stand under headings of their own.
    * `field`: the config's field that the value goes to; the name by default. Of several options with one field the
      first one given, in the order of the table, wins.
    * `is_secret`: the value never appears in messages and reports.
    * `is_lenient`: text that is not of the kind stands for the default.
    """

    flags: tuple[str, ...]
    help: str
    group: str = ""
    kind: Kind = "text"
    env: tuple[str, ...] | None = None
    default: Value = None
    default_text: str = "none"
    minimum: float = 0
    maximum: float = U32_MAX
    zero_text: str = ""
    choices: tuple[str, ...] = ()
    hidden_choices: tuple[str, ...] = ()
    synonyms: tuple[tuple[str, str], ...] = ()
    takes: tuple[Value, ...] = ()
    metavar: str = ""
    status: Status = Status.HONOURED
    no_effect: str = ""
    refusal: str = ""
    field: str = ""
    is_secret: bool = False
    is_lenient: bool = False

    @property
    def name(self) -> str:
        """The first flag as an identifier: `--max-batch-size` is `max_batch_size`."""
        return self.flags[0].lstrip("-").replace("-", "_")

    @property
    def field_name(self) -> str:
        """The field of the config that the value goes to."""
        return self.field or self.name

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that are read, strongest first."""
        return (self.name.upper(),) if self.env is None else self.env

    @property
    def shown_metavar(self) -> str:
        """The placeholder for the value in usage texts; empty for a switch."""
        return "" if self.kind == "switch" else self.metavar or self.name.upper()

    @property
    def section(self) -> str:
        """The heading in help and docs."""
        return self.group if self.status is Status.HONOURED else f"Known from TGI, {self.status.value}"

    @property
    def working_choices(self) -> tuple[str, ...]:
        """The texts of a `choice` that work and are shown."""
        texts = tuple(str(value) for value in self.takes) if self.takes else self.choices
        return tuple(text for text in texts if text not in self.hidden_choices)


def accepts(option: Option) -> str:
    """Say in words what values the option has, to follow "must be".

    >>> accepts(Option(flags=("--port",), help="", kind="whole", maximum=U16_MAX))
    'a whole number from 0 to 65535'
    """
    if option.kind == "whole":
        return f"a whole number from {option.minimum:.0f} to {option.maximum:.0f}"
    if option.kind == "decimal":
        return _decimal_words(option)
    if option.kind == "choice":
        return "one of " + ", ".join(f"`{choice}`" for choice in option.working_choices)
    return {
        "switch": "`true` or `false`",
        "text": "text that is not empty",
        "path": "a path that is not empty",
        "address": "an IP address or `localhost`",
        "list": "a comma-separated list of one entry or more",
    }[option.kind]


def _decimal_words(option: Option) -> str:
    if math.isinf(option.maximum):
        return "a number" if math.isinf(option.minimum) else f"a number of {option.minimum:g} or more"
    return f"a number from {option.minimum:g} to {option.maximum:g}"


def parse_value(option: Option, text: str) -> Value:
    """Turn text from a flag or a variable into a value of the option's kind.

    Raises `ValueError` (without a message; `accepts` has the words) for text that is not of the kind or is out of
    bounds, and `OptionError` with `zero_text` for a zero that has a message of its own.
    """
    return _PARSERS.get(option.kind, _text)(option, text)


def _number(option: Option, text: str) -> int | float:
    pattern = _WHOLE if option.kind == "whole" else _DECIMAL
    if not pattern.fullmatch(text):
        raise ValueError
    value = int(text) if option.kind == "whole" else float(text)
    if value == 0 and option.zero_text:
        raise OptionError(option.zero_text)
    if not option.minimum <= value <= option.maximum or math.isinf(value):
        raise ValueError
    return value


def _switch(option: Option, text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _choice(option: Option, text: str) -> str:
    choice = dict(option.synonyms).get(text.lower(), text.lower())
    if choice not in option.choices:
        raise ValueError
    return choice


def _list(option: Option, text: str) -> tuple[str, ...]:
    entries = tuple(entry.strip() for entry in text.split(",") if entry.strip())
    if not entries:
        raise ValueError
    return entries


def _address(option: Option, text: str) -> str:
    return "127.0.0.1" if text == "localhost" else str(ipaddress.ip_address(text))


def _text(option: Option, text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


_PARSERS: Mapping[Kind, Callable[[Option, str], Value]] = {
    "whole": _number,
    "decimal": _number,
    "switch": _switch,
    "choice": _choice,
    "list": _list,
    "address": _address,
}
