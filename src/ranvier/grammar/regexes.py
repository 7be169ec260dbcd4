r"""From the regexes that clients write to the ones that llguidance reads.

Clients of the API write Python's dialect as the outlines library read it: the whole output must match, and the
classes `\d`, `\w` and `\s` are ASCII. llguidance reads that of Rust's `regex-syntax`, where the classes are Unicode, a
class may hold classes, and `/` ends the regex. So the text is parsed here and written anew, with every character
spelled so that it means the same to both.

| written | becomes |
| --- | --- |
| `^`, `\A`, `$`, `\Z` at the ends of the output | dropped: they hold there anyway |
| the same elsewhere | refused: nothing could match |
| `*?`, `+?`, `??`, `{m,n}?` | the greedy form: laziness chooses between matches, not between texts |
| `(...)`, `(?P<name>...)` | a group that captures nothing |
| `{,n}`; a `{` that begins no repetition | `{0,n}`; the character |
| look-around, `\b`, backreferences, conditionals, atomic groups, possessive repetitions | refused by name |

Reference: the Python documentation of `re`, section "Regular Expression Syntax".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from ranvier.grammar.refusals import cannot_compile, not_valid

MAX_NUM_LEAST_CHARACTERS = 20_000
"""A regex may demand this many characters. What is forced is tokenized in one go: 20,000 characters take 10 ms."""

_MAX_LENGTH = 32_768
_MAX_DEPTH = 50
_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\x{b}\x{c}\r\x{20}"}
_SIGNS = ("*", "+", "?")
_MAX_DIGITS = 6
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ANCHORS = {"^": "^", "$": "$", r"\A": "^", r"\Z": "$", r"\z": "$"}
_REPETITION = re.compile(r"\{(?=[\d,])(\d*)(?:(,)(\d*))?\}", re.ASCII)
_GROUP_NAME = re.compile(r"\(\?P?<[^\W\d]\w*>")
_FLAGS = re.compile(r"\(\?([a-zA-Z]+)([:)])")
_COMMENT = re.compile(r"\(\?#[^)]*\)")
_PROPERTY = re.compile(r"\\[pP](?:\{\^?\w+(?:=\w+)?\}|[A-Z])", re.ASCII)
_OCTAL = re.compile(r"\\(0[0-7]{0,2}|[0-3][0-7]{2})")
_POSIX_CLASS = re.compile(r"\[:\^?[a-z]+:\]")
_REFUSED_GROUPS = {
    "(?=": "look-ahead",
    "(?!": "look-ahead",
    "(?<=": "look-behind",
    "(?<!": "look-behind",
    "(?>": "an atomic group",
    "(?(": "a conditional",
    "(?P=": "a backreference",
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """A character or a class, written for llguidance."""

    text: str


@dataclass(frozen=True, slots=True)
class _Anchor:
    """`side` is `^` or `$`; `written` is what the client wrote."""

    side: str
    written: str


@dataclass(frozen=True, slots=True)
class _Group:
    flags: str
    alternatives: tuple[tuple[_Item, ...], ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    item: _Piece | _Group
    least: int
    suffix: str


_Item: TypeAlias = "_Piece | _Anchor | _Group | _Repeat"


def translated(regex: str) -> str:
    r"""`regex` for llguidance; contains no `/` and no line break. Example: `\d+?/$` becomes `(?:[0-9]+\x{2f})`.

    Raises ValidationError if it is no regex, if it uses what cannot be honoured, or if it demands more than
    `MAX_NUM_LEAST_CHARACTERS` characters.
    """
    if len(regex) > _MAX_LENGTH:
        raise cannot_compile(f"the regex has {len(regex)} characters and the limit is {_MAX_LENGTH}; make it shorter")
    whole = _Parser(regex).whole()
    num_least = _num_least(whole)
    if num_least > MAX_NUM_LEAST_CHARACTERS:
        raise cannot_compile(
            f"the regex demands {num_least} characters and the limit is {MAX_NUM_LEAST_CHARACTERS}; "
            "use smaller repetitions"
        )
    return _written_group(whole, at_start=True, at_end=True)


def _num_least(item: _Item) -> int:
    """Most characters that any one alternative demands."""
    if isinstance(item, _Repeat):
        return item.least * _num_least(item.item)
    if isinstance(item, _Group):
        return max(sum(map(_num_least, sequence)) for sequence in item.alternatives)
    return isinstance(item, _Piece)


def _written_group(group: _Group, *, at_start: bool, at_end: bool) -> str:
    parts = (_written_sequence(sequence, at_start, at_end) for sequence in group.alternatives)
    return f"(?{group.flags}:{'|'.join(parts)})"


def _written_sequence(items: Sequence[_Item], at_start: bool, at_end: bool) -> str:
    """`at_start`: nothing of the output stands before the sequence; `at_end`: nothing after it."""
    first, stop = 0, len(items)
    while at_start and first < stop and _is_anchor(items[first], "^"):
        first += 1
    while at_end and first < stop and _is_anchor(items[stop - 1], "$"):
        stop -= 1
    kept = items[first:stop]
    last = len(kept) - 1
    return "".join(_written(item, at_start and n == 0, at_end and n == last) for n, item in enumerate(kept))


def _is_anchor(item: _Item, side: str) -> bool:
    return isinstance(item, _Anchor) and item.side == side


def _written(item: _Item, at_start: bool, at_end: bool) -> str:
    if isinstance(item, _Group):
        return _written_group(item, at_start=at_start, at_end=at_end)
    if isinstance(item, _Repeat):
        return _written(item.item, False, False) + item.suffix
    if isinstance(item, _Anchor):
        place = "start" if item.side == "^" else "end"
        raise not_valid(f"regex: `{item.written}` can only match at the {place} of the output; remove it")
    return item.text


class _Parser:
    """Reads one regex from left to right."""

    def __init__(self, regex: str) -> None:
        self._regex = regex
        self._at = 0
        self._depth = 0

    def whole(self) -> _Group:
        """The regex as a group with its global flags."""
        match = _FLAGS.match(self._regex)
        flags = ""
        if match and match[2] == ")":
            flags = self._checked_flags(match[1])
            self._at = match.end()
        group = self._group(flags)
        if self._at < len(self._regex):
            self._fail("unbalanced `)`")
        return group

    def _fail(self, reason: str) -> NoReturn:
        raise not_valid(f"regex: {reason} at position {self._at}")

    def _refuse(self, what: str) -> NoReturn:
        raise not_valid(f"regex: {what} at position {self._at} is not supported; write the regex without it")

    def _peek(self, text: str) -> bool:
        return self._regex.startswith(text, self._at)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._regex, self._at)
        if match:
            self._at = match.end()
        return match

    def _checked_flags(self, flags: str) -> str:
        # a and u choose the classes, which are ASCII in any case; m is about anchors, which stand at the ends only.
        for flag in flags:
            if flag not in "imsau":
                self._refuse(f"the flag `{flag}`")
        return "".join(flag for flag in "is" if flag in flags)

    def _group(self, flags: str) -> _Group:
        """Alternatives up to the closing parenthesis, which is left, or to the end."""
        if self._depth == _MAX_DEPTH:
            raise cannot_compile(f"regex groups are nested deeper than {_MAX_DEPTH} levels; use fewer groups")
        self._depth += 1
        alternatives = [self._sequence()]
        while self._peek("|"):
            self._at += 1
            alternatives.append(self._sequence())
        self._depth -= 1
        return _Group(flags, tuple(alternatives))

    def _sequence(self) -> tuple[_Item, ...]:
        items: list[_Item] = []
        while self._at < len(self._regex) and self._regex[self._at] not in "|)":
            if not self._take(_COMMENT):
                items.append(self._repeated(self._item()))
        return tuple(items)

    def _item(self) -> _Item:
        if self._is_repetition():
            self._fail("nothing to repeat")
        character = self._regex[self._at]
        if character == "(":
            return self._parenthesis()
        if character == "[":
            return _Piece(self._class())
        if character == "\\":
            return self._escape()
        self._at += 1
        if character in _ANCHORS:
            return _Anchor(character, character)
        return _Piece("." if character == "." else _spelled(ord(character)))

    def _parenthesis(self) -> _Group:
        start = self._at
        group = self._group(self._opening())
        if not self._peek(")"):
            self._at = start
            self._fail("missing `)` for the group")
        self._at += 1
        return group

    def _opening(self) -> str:
        """Goes past the opening of a group and gives its flags."""
        for opening, name in _REFUSED_GROUPS.items():
            if self._peek(opening):
                self._refuse(name)
        match = _FLAGS.match(self._regex, self._at)
        if match:
            if match[2] == ")":
                self._fail("flags for the whole regex belong at its start; there are some")
            flags = self._checked_flags(match[1])
            self._at = match.end()
            return flags
        if not self._take(_GROUP_NAME):
            if self._peek("(?") and not self._peek("(?:"):
                self._fail("unknown kind of group")
            self._at += 3 if self._peek("(?:") else 1
        return ""

    def _is_repetition(self) -> bool:
        return self._regex[self._at : self._at + 1] in _SIGNS or bool(_REPETITION.match(self._regex, self._at))

    def _repeated(self, item: _Item) -> _Item:
        if not self._is_repetition():
            return item
        if isinstance(item, (_Anchor, _Repeat)):
            self._fail("nothing to repeat")
        least, suffix = self._bounds()
        if self._peek("+"):
            self._refuse("a possessive repetition")
        if self._peek("?"):
            self._at += 1
        if self._is_repetition():
            self._fail("multiple repeat")
        return _Repeat(item, least, suffix)

    def _bounds(self) -> tuple[int, str]:
        """The least number of times, and the repetition for llguidance."""
        sign = self._regex[self._at]
        if sign in _SIGNS:
            self._at += 1
            return int(sign == "+"), sign
        match = self._take(_REPETITION)
        assert match is not None, "called where a repetition begins"
        least, most = (self._number(match[n] or "") for n in (1, 3))
        if most is not None and most < (least or 0):
            self._fail("the most is less than the least in the repetition that ends")
        comma = match[2] or ""
        return least or 0, f"{{{least or 0}{comma}{'' if most is None else most}}}"

    def _number(self, digits: str) -> int | None:
        if len(digits) > _MAX_DIGITS:
            raise cannot_compile(f"a regex may repeat at most {10**_MAX_DIGITS - 1} times; use `*` or `+` instead")
        return int(digits) if digits else None

    def _escape(self) -> _Item:
        written = self._regex[self._at : self._at + 2]
        if written in _ANCHORS:
            self._at += 2
            return _Anchor(_ANCHORS[written], written)
        if written in (r"\b", r"\B"):
            self._refuse(f"the word boundary `{written}`")
        named = self._named_class()
        return _Piece(_spelled(self._escaped()) if named is None else named)

    def _named_class(self) -> str | None:
        r"""A class such as `\d` or `\p{L}`, also fit to stand inside brackets; None if none stands here."""
        if match := self._take(_PROPERTY):
            return match[0]
        letter = self._regex[self._at + 1 : self._at + 2]
        members = _CLASSES.get(letter.lower())
        if members is None:
            return None
        self._at += 2
        return f"[{members}]" if letter.islower() else f"[^{members}]"

    def _escaped(self) -> int:
        """The code point that an escape stands for."""
        if match := self._take(_OCTAL):
            return int(match[1], 8)
        letter = self._regex[self._at + 1 : self._at + 2]
        if not letter:
            self._fail("lone backslash")
        if letter in _HEX_DIGITS:
            return self._hexadecimal(_HEX_DIGITS[letter])
        if letter.isdigit():
            self._refuse("a backreference")
        if letter.isascii() and letter.isalpha() and letter not in _CONTROLS:
            self._fail(f"unknown escape `\\{letter}`")
        self._at += 2
        return _CONTROLS.get(letter, ord(letter))

    def _hexadecimal(self, num_digits: int) -> int:
        match = re.compile(rf"\\.([0-9a-fA-F]{{{num_digits}}})").match(self._regex, self._at)
        if match is None:
            self._fail(f"an escape that needs {num_digits} hexadecimal digits")
        code_point = int(match[1], 16)
        if code_point > 0x10FFFF:
            self._fail("no character has the number of the escape")
        self._at = match.end()
        return code_point

    def _class(self) -> str:
        start = self._at
        self._at += 1
        opening = "[^" if self._peek("^") else "["
        self._at += len(opening) - 1
        members = [self._member()]
        while not self._peek("]"):
            if self._at >= len(self._regex):
                self._at = start
                self._fail("missing `]` for the class")
            members.append(self._member())
        self._at += 1
        return f"{opening}{''.join(members)}]"

    def _member(self) -> str:
        """One character, range or class inside brackets."""
        if _POSIX_CLASS.match(self._regex, self._at):
            self._refuse("a POSIX class such as `[:alpha:]`")
        first = self._end_of_range()
        if not self._peek("-") or self._regex[self._at + 1 : self._at + 2] in ("]", ""):
            return first if isinstance(first, str) else _spelled(first)
        self._at += 1
        last = self._end_of_range()
        if isinstance(first, str) or isinstance(last, str) or last < first:
            self._fail("bad character range that ends")
        return f"{_spelled(first)}-{_spelled(last)}"

    def _end_of_range(self) -> str | int:
        """A class, or the code point of one character."""
        character = self._regex[self._at : self._at + 1]
        if not character:
            self._fail("missing `]`, the regex ends")
        if character != "\\":
            self._at += 1
            return ord(character)
        if self._peek(r"\b"):
            self._at += 2
            return 8
        named = self._named_class()
        return self._escaped() if named is None else named


def _spelled(code_point: int) -> str:
    if 0xD800 <= code_point < 0xE000:
        raise not_valid("regex: surrogates stand for no character; remove them")
    character = chr(code_point)
    if character.isascii():
        return character if character.isalnum() else rf"\x{{{code_point:x}}}"
    return character if character.isprintable() else rf"\x{{{code_point:x}}}"
