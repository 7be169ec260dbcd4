"""Log lines on standard error, plain or as JSON. The only module that installs a handler.

A record is one line, whatever its values hold: nobody who sends text to the server can write a line of their own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

import msgspec

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PACKAGE = "ranvier"
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_COLOURS = {"DEBUG": "\x1b[34m", "INFO": "\x1b[32m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}
_RESET = "\x1b[0m"


def set_up_logs(level: str, *, as_json: bool, process: str, colorize: str = "auto") -> None:
    """Send records of `level` (trace, debug, info, warn, error) and above to standard error.

    As in TGI, `debug` and `info` are for this program; libraries have their say from warnings on. `trace` opens all.
    `colorize`, for plain lines: true or 1, false or 0, and auto: on a terminal, unless the variable `NO_COLOR` is set.
    """
    handler = logging.StreamHandler()
    plain = PlainFormatter(process, colours=_wants_colour(colorize))
    handler.setFormatter(JsonFormatter(process) if as_json else plain)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    own = _LEVELS[level]
    root.setLevel(own if level == "trace" else max(own, logging.WARNING))
    logging.getLogger(_PACKAGE).setLevel(own)


def _wants_colour(colorize: str) -> bool:
    if colorize == "auto":
        return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return colorize in ("true", "1")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _RESERVED}


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, level, message, target, process, then the extra fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "message": record.getMessage(),
            "target": record.name,
            "process": self._process,
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except (UnicodeEncodeError, OverflowError):
            # Half of a surrogate pair, or a number beyond 64 bits.
            return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """`time level process: message key=value …`. Characters that do not print are escaped; values with spaces quoted.

    A traceback follows in lines that begin with two spaces, which no record's first line does.
    """

    def __init__(self, process: str, *, colours: bool = False) -> None:
        super().__init__()
        self._process = process
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback below it where there is one."""
        extra = "".join(f" {name}={_value(value)}" for name, value in _fields(record).items())
        line = f"{_timestamp(record)} {self._level(record)} {self._process}: {printable(record.getMessage())}{extra}"
        if not record.exc_info:
            return line
        traceback = self.formatException(record.exc_info).split("\n")
        return "\n".join([line, *(f"  {printable(each)}" for each in traceback)])

    def _level(self, record: logging.LogRecord) -> str:
        name = f"{record.levelname:5}"
        return f"{_COLOURS.get(record.levelname, '')}{name}{_RESET}" if self._colours else name


def _value(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not set(text) & set(' "'):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def printable(text: str) -> str:
    r"""The text with everything that does not print as an escape, direction marks and line ends included.

    >>> printable("a\nb\x1b[2J")
    'a\\nb\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
