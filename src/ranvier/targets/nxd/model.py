"""What a compiled optimum-neuron artifact is in numbers, and the calls that it takes.

Letters: B compiled rows, which are the slots; n rows of a call; w tokens of a row; V vocabulary. Source for fields and
rules: optimum-neuron 0.4.5, `models/inference/backend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ranvier.core import Limits
from ranvier.errors import ArtifactError

Ints: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]
Output: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64] | Floats

GREEDY_ROW = (1.0, 1.0, 1.0)
"""(top_k, top_p, temperature) of the most likely token; also for rows that nobody reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NxdShape:
    """The static shape of an artifact. Everything counts tokens, rows or cores.

    * `batch_size`: rows of the decode graph and of the KV cache: row i is slot i.
    * `sequence_length`: KV rows of a slot. Nothing in the library stops a decode there.
    * `max_context_length`: width of the prefill graph. The library cuts longer prompts off without a word.
    * `tp_degree`: cores that one process takes.
    * `continuous_batching`: the prefill graph has one row and writes one slot; without it `batch_size` is 1 here.
    * `on_device_sampling`: the graphs give tokens; False gives logits.
    * `max_topk`: candidates from which a device draws.
    * `prefill_chunk_size`: width of the chunk graph that stands in for the prefill graph; 0 for none (0.4.5 has none).
    """

    batch_size: int
    sequence_length: int
    max_context_length: int
    tp_degree: int = 1
    continuous_batching: bool = True
    on_device_sampling: bool = False
    max_topk: int = 256
    prefill_chunk_size: int = 0
    vocab_size: int

    @property
    def max_prompt(self) -> int:
        """The longest prompt: one token has to fit behind it."""
        width = self.sequence_length if self.prefill_chunk_size else self.max_context_length
        return min(width, self.sequence_length - 1)

    def limits(self, *, max_batch_prefill_tokens: int | None = None) -> Limits:
        """The limits that an engine on this artifact has.

        Unless given, a step prefills as many tokens as the longest prompt has: a static graph takes prompts one by
        one anyway.
        """
        return Limits(
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            max_input_tokens=self.max_prompt,
            max_batch_prefill_tokens=max_batch_prefill_tokens or self.max_prompt,
        )


def shape_of(neuron_config: Mapping[str, object], vocab_size: int) -> NxdShape:
    """The shape that a neuron_config.json describes, with the library's defaults for what it leaves out.

    `vocab_size` is that of the config.json beside it. Raises `ArtifactError` for what this target cannot drive.
    """
    fields = _Fields(neuron_config)
    batch_size, length = fields.count("batch_size", 1), fields.count("sequence_length", 128)
    shape = NxdShape(
        batch_size=batch_size,
        sequence_length=length,
        max_context_length=fields.count("max_context_length", length),
        tp_degree=fields.count("tp_degree", 1) * fields.count("ep_degree", 1) * fields.count("pp_degree", 1),
        continuous_batching=fields.flag("continuous_batching"),
        on_device_sampling=fields.flag("on_device_sampling"),
        max_topk=fields.count("max_topk", 256),
        prefill_chunk_size=fields.count("prefill_chunk_size", 0, least=0),
        vocab_size=vocab_size,
    )
    _refuse(shape, fields)
    return shape


def _refuse(shape: NxdShape, fields: _Fields) -> None:
    kind = fields.values.get("_serialized_key", "NxDNeuronConfig")
    reasons = {
        f"`_serialized_key` is {kind!r}; only NxDNeuronConfig, a text decoder, is served": kind != "NxDNeuronConfig",
        "`speculation_length` > 0 is not served": fields.count("speculation_length", 0, least=0) > 0,
        "`output_logits` is not served: no released wrapper can handle it": fields.flag("output_logits"),
        "`max_batch_size` must be `batch_size`: the decode graph writes every slot": fields.count(
            "max_batch_size", shape.batch_size
        )
        != shape.batch_size,
        "`batch_size` > 1 needs `continuous_batching`": shape.batch_size > 1 and not shape.continuous_batching,
        "`max_context_length` must be > 1 and <= `sequence_length`": not (
            2 <= shape.max_context_length <= shape.sequence_length
        ),
    }
    for reason, is_refused in reasons.items():
        if is_refused:
            raise ArtifactError(f"neuron_config.json: {reason}; export the model anew")


@dataclass(frozen=True, slots=True)
class _Fields:
    values: Mapping[str, object]

    def count(self, name: str, default: int, *, least: int = 1) -> int:
        """A whole number; a null stands for the default, as in the library."""
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArtifactError(f"neuron_config.json: `{name}` must be a whole number >= {least}. Given: {value!r}")
        return value

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ArtifactError(f"neuron_config.json: `{name}` must be true or false. Given: {value!r}")
        return value


class NxdModel(Protocol):
    """A loaded artifact, called as the library is. One thread owns it.

    Shapes of the calls: `input_ids`, `position_ids` `[n, w]`; `seq_ids` `[n]`, the slots; `sampling_params` `[n, 3]`
    as (top_k, top_p, temperature), which have to be given also where the host samples. The rules that a caller must
    keep are those of `NxdPrograms`; the library checks next to nothing.
    """

    @property
    def shape(self) -> NxdShape:
        """Constant."""
        ...

    @property
    def details(self) -> Mapping[str, str]:
        """Words for the log: versions, what it runs on."""
        ...

    def forward(self, input_ids: Ints, position_ids: Ints, seq_ids: Ints, sampling_params: Floats) -> Output:
        """A prompt per row (w > 1, positions from 0), or the next token of each row (w = 1).

        Tokens `[n]` with sampling on the device, else float32 logits `[n, 1, V]` behind each row's last token.
        """
        ...

    def prefill_chunk(self, input_ids: Ints, position_ids: Ints, seq_ids: Ints, sampling_params: Floats) -> Floats:
        """The next part of one prompt, at most `prefill_chunk_size` tokens: logits `[1, 1, V]` behind the last one."""
        ...

    def release(self) -> None:
        """Let go of the cores as far as this process can; they are free when it ends."""
        ...
