"""The metadata of one GGUF file as checked numbers; errors name the file and the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ranvier.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFields:
    """`value(key)` is what the file named `file` has under a whole key, None if nothing.

    `tensors` maps GGUF names to the reader's tensors. Keys of the other methods lack the architecture before them.
    """

    file: str
    value: Callable[[str], object]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> object:
        """`general.architecture`: a name, where the file is sound."""
        return self.value("general.architecture")

    def get(self, key: str, default: object = None) -> object:
        """The value as it stands in the file."""
        value = self.value(self.full(key))
        return default if value is None else value

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number. Raises `ModelError` if it is another thing, or missing without a default."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ModelError(f"{self.file}: `{self.full(key)}` must be a whole number. Given: {value!r}")
        return int(value)

    def window(self) -> int | None:
        """How many tokens a token sees, itself included; None where all, which some files write as 0."""
        return self.integer("attention.sliding_window", 0) or None

    def number(self, key: str, default: float | None = None) -> float:
        """A number. Raises `ModelError` if it is another thing, or missing without a default."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise ModelError(f"{self.file}: `{self.full(key)}` must be a number. Given: {value!r}")
        # float32 in the file; the shortest decimal is what the checkpoint's author wrote.
        return float(str(np.float32(value)))

    def has(self, tensor: str) -> bool:
        """Whether the file has a tensor of that GGUF name."""
        return tensor in self.tensors

    def factors(self, tensor: str) -> list[float] | None:
        """The values of a small float32 tensor; None where the file has none."""
        return [float(value) for value in self.tensors[tensor].data.reshape(-1)] if self.has(tensor) else None

    def rows(self, tensor: str) -> int:
        """Rows of a matrix. Raises `ModelError` where it is missing or no matrix."""
        if not self.has(tensor):
            raise ModelError(f"{self.file}: tensor `{tensor}` is missing; the file is incomplete")
        shape = [int(size) for size in self.tensors[tensor].shape[::-1]]
        if len(shape) != 2:
            raise ModelError(f"{self.file}: tensor `{tensor}` has shape {shape}; a matrix is needed")
        return shape[0]

    def unsupported(self, key: str, supported: str) -> ModelError:
        """The error for a value that is well formed but cannot be served."""
        return ModelError(f"{self.file}: `{self.full(key)}` {self.get(key)!r} is not supported; supported: {supported}")

    def full(self, key: str) -> str:
        """The key as it stands in the file."""
        return f"{self.architecture}.{key}"
