"""Typed access to a checkpoint's `config.json` with errors that name the field."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ranvier.errors import ModelError

_MISSING = object()
_Choice = TypeVar("_Choice", str, int)


@dataclass(frozen=True, slots=True)
class ConfigFields:
    """A mapping whose readers raise `ModelError` when a field is absent or has another type.

    `null` counts as absent, as in Hugging Face configs.
    """

    values: Mapping[str, object]
    path: str = ""

    def integer(self, name: str, default: object = _MISSING) -> int:
        """An integer above zero."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._wrong(name, value, "a whole number above 0")
        return value

    def optional_integer(self, name: str, default: int | None = None) -> int | None:
        """An integer above zero, or None where the field is `null`; `default` where it is absent."""
        if name not in self.values:
            return default
        return None if self.values[name] is None else self.integer(name)

    def number(self, name: str, default: object = _MISSING) -> float:
        """A finite number above zero."""
        value = _number(self._get(name, default))
        if value is None:
            raise self._wrong(name, self._get(name, default), "a number above 0")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of `count` finite numbers above zero."""
        given = self._get(name, _MISSING)
        values = tuple(map(_number, given)) if isinstance(given, list) else ()
        found = tuple(value for value in values if value is not None)
        if len(found) != count or len(values) != count:
            raise self._wrong(name, given, f"a list of {count} numbers above 0")
        return found

    def choices(self, name: str, count: int, allowed: tuple[_Choice, ...]) -> list[_Choice]:
        """A list of `count` of the values allowed."""
        given = self._get(name, _MISSING)
        values = given if isinstance(given, list) else []
        # By type too: `true` equals 1.
        found = [known for value in values for known in allowed if value == known and type(value) is type(known)]
        if len(found) != count or len(values) != count:
            raise self._wrong(name, given, f"a list of {count} values out of {', '.join(map(str, allowed))}")
        return found

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def section(self, name: str) -> ConfigFields:
        """A nested object, empty when absent."""
        value = self._get(name, {})
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        return ConfigFields(value, f"{self.path}{name}.")

    def require_value(self, name: str, expected: str) -> None:
        """Refuse any value but `expected`; absent is fine."""
        value = self.text(name, expected)
        if value != expected:
            raise self.unsupported(name, value, expected)

    def unsupported(self, name: str, value: object, supported: str) -> ModelError:
        """The error for a value that is well formed but cannot be served."""
        return ModelError(f"config.json: `{self.path}{name}` is {value!r}, which is not supported; use {supported}")

    def _get(self, name: str, default: object) -> object:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is _MISSING:
            raise ModelError(f"config.json: `{self.path}{name}` is missing")
        return default

    def _wrong(self, name: str, value: object, wanted: str) -> ModelError:
        return ModelError(f"config.json: `{self.path}{name}` must be {wanted}. Given: {value!r}")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        return None
    return float(value)
