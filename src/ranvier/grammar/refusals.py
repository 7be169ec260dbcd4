"""The two ways to refuse a grammar, in the words of the API."""

from __future__ import annotations

from ranvier.errors import ValidationError

_MAX_DETAIL = 200


def not_valid(detail: str) -> ValidationError:
    """The grammar is wrong in itself; `detail` says where and what to do."""
    return ValidationError(f"grammar is not valid: {one_line(detail)}")


def cannot_compile(detail: str) -> ValidationError:
    """The grammar may be right, but it is too large or uses what is not implemented."""
    return ValidationError(f"cannot compile regex from schema: {one_line(detail)}")


def one_line(text: str) -> str:
    """`text` without line breaks, cut after 200 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_DETAIL else f"{line[:_MAX_DETAIL]}…"
