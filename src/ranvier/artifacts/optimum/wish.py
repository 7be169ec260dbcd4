"""What somebody asked of a Neuron model, and where each value was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a model for Neuron must be able to do. None means: not asked, anything is right.

    * `batch_size`: requests that run at once. `sequence_length`: tokens of prompt and output together.
      `max_input_tokens`: of the prompt alone. `num_cores`: NeuronCores to run on. All 1 or more.
    * `auto_cast_type`: `bf16`, `fp16` or `fp32`.
    * `target`: what the compiler calls the chip, `trn1` for Inferentia2 too. `available_cores`: what this host has.
    * `compiler_version`: of neuronx-cc, with or without its build (`2.21.33363.0+82129205`). `optimum_version`: of
      optimum-neuron, which loads only what the same version exported.
    * `sources`: for each field that was set, what a message calls it: `HF_NUM_CORES`, "flag `--num-cores`".
    """

    batch_size: int | None = None
    sequence_length: int | None = None
    max_input_tokens: int | None = None
    num_cores: int | None = None
    auto_cast_type: str | None = None
    target: str | None = None
    available_cores: int | None = None
    compiler_version: str | None = None
    optimum_version: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """What a message calls a field: where it was set, else its name in backticks."""
        return self.sources.get(name, f"`{name}`")


def is_same_compiler(version: str, wanted: str) -> bool:
    """Whether a full compiler version is the wanted one, which may lack its build.

    >>> is_same_compiler("2.21.33363.0+82129205", "2.21.33363.0"), is_same_compiler("2.21.1", "2.2")
    (True, False)
    """
    return version == wanted or version.partition("+")[0] == wanted
