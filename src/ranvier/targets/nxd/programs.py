"""Step plans on an optimum-neuron artifact.

The library checks next to nothing, so the rules are kept here:

1. A prompt goes alone, through one call, or through one call for each chunk. Its length is checked before: the library
   would cut it off.
2. A chunk of one token goes through the decode graph, also the first: the graph for prompts would take its padding for
   the last token.
3. A decode always has all B rows in slot order. The graph writes a KV row for every slot; left to itself the library
   fills missing rows with copies of the first, *at the first one's position*, which destroys other requests.
4. A slot that does not advance is parked: token 0 at the position that its own next token or chunk overwrites. Nothing
   reads that row before. A slot whose request has ended stays parked behind it; that is as good as 0, where an empty
   one starts, and needs no word from the scheduler about who is gone.
5. No position reaches `sequence_length`: the graph would write outside the cache.

Sampling is settled when an artifact is exported. With logits the host does it, with every parameter there is. A device
draws with top-k, top-p and temperature and without a seed; it reports no log-probability, so 0.0 is given.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ranvier.core import (
    ALL_PARAMETERS,
    Capabilities,
    Chunk,
    SamplingParams,
    SamplingRow,
    StepPlan,
    StepResult,
    TokenChoice,
)
from ranvier.sampling import HostSampler
from ranvier.targets.nxd.model import GREEDY_ROW, Floats, NxdModel, NxdShape, Output

ON_DEVICE = frozenset({"temperature", "top_k", "top_p"})
"""What the graphs that sample honour."""
ON_HOST = ALL_PARAMETERS - {"decoder_input_details"}
"""The graphs give the last token's logits alone, so nobody can say how likely a prompt was."""
_UNKNOWN_LOGPROB = 0.0
_FLOAT32 = np.finfo(np.float32)

Pair = tuple[Chunk, SamplingRow | None]
IntRows = npt.NDArray[np.int32]


def capabilities_of(shape: NxdShape) -> Capabilities:
    """What an artifact of this shape can do: prefill and decode apart, no shared prefixes."""
    is_host = not shape.on_device_sampling
    common = Capabilities(mixed_steps=False, chunk_multiple=shape.prefill_chunk_size, prefix_sharing=False)
    if is_host:
        return replace(common, parameters=ON_HOST)
    return replace(common, parameters=ON_DEVICE, max_top_n_tokens=0, max_top_k=shape.max_topk)


class NxdPrograms:
    """A loaded artifact behind `targets.Programs`. Owned by one thread."""

    def __init__(self, model: NxdModel) -> None:
        self._model, self._shape = model, model.shape
        self._capabilities = capabilities_of(self._shape)
        # KV rows of each slot that are in place: the position of its next token.
        self._lengths = [0] * self._shape.batch_size
        self._sampler = HostSampler()

    @property
    def capabilities(self) -> Capabilities:
        """See `capabilities_of`."""
        return self._capabilities

    @property
    def details(self) -> dict[str, str]:
        """Shape, kind of sampling, and what the model says of itself."""
        shape = self._shape
        own = {
            "sampling": "device" if shape.on_device_sampling else "host",
            "max_context_length": str(shape.max_context_length),
            "prefill_chunk_size": str(shape.prefill_chunk_size),
            "num_cores": str(shape.tp_degree),
        }
        return {**own, **self._model.details}

    def warm_up(self) -> None:
        """Run each graph once, before anybody is served: the first execution is slow."""
        self._prompt(Chunk(0, (0, 0), 0, wants_logits=True), None)
        self._decode([])
        self._lengths = [0] * self._shape.batch_size

    def run(self, plan: StepPlan) -> StepResult:
        """See `Programs.run`. Raises `ValueError` before any call when a rule of the artifact is broken."""
        self._check(plan)
        left = iter(plan.rows)
        pairs: list[Pair] = [(chunk, next(left) if chunk.wants_logits else None) for chunk in plan.chunks]
        outputs = {chunk.slot: self._prompt(chunk, row) for chunk, row in pairs if len(chunk.token_ids) > 1}
        singles = [pair for pair in pairs if len(pair[0].token_ids) == 1]
        if singles:
            outputs |= self._decode(singles)
        wanted = [(outputs[chunk.slot], row) for chunk, row in pairs if row is not None]
        began = time.monotonic()
        choices = tuple(self._choice(output, row) for output, row in wanted)
        num_padded = sum(self._num_padded(chunk) for chunk, _ in pairs if len(chunk.token_ids) > 1)
        num_padded += self._shape.batch_size - len(singles) if singles else 0
        return StepResult(choices, choosing_s=time.monotonic() - began, num_padded_tokens=num_padded)

    def _check(self, plan: StepPlan) -> None:
        """Nothing has run yet: a request that breaks a rule got past admission."""
        if plan.shares:
            raise ValueError("this target has no shared prefixes")
        for chunk in plan.chunks:
            self._check_chunk(chunk)
        for row in plan.rows if self._shape.on_device_sampling else ():
            _check_on_device(row, self._shape.max_topk)

    def _check_chunk(self, chunk: Chunk) -> None:
        shape, length = self._shape, len(chunk.token_ids)
        if chunk.scored_ids or chunk.adapter:
            raise ValueError("this target has neither prompt scores nor adapters")
        if not 0 <= chunk.slot < shape.batch_size:
            raise ValueError(f"slot {chunk.slot} is not among the {shape.batch_size} rows of the artifact")
        if chunk.start + length > shape.sequence_length:
            end, limit = chunk.start + length, shape.sequence_length
            raise ValueError(f"position {end - 1} of slot {chunk.slot} is beyond `sequence_length` {limit}")
        if chunk.start not in (0, self._lengths[chunk.slot]):
            raise ValueError(f"slot {chunk.slot} goes on at {self._lengths[chunk.slot]}, not at {chunk.start}")
        is_whole = length == 1 or shape.prefill_chunk_size > 0
        if not is_whole and (chunk.start > 0 or length > shape.max_context_length):
            raise ValueError(
                f"a prompt must come whole, with at most {shape.max_context_length} tokens (`max_context_length`). "
                f"Given: {length} tokens from position {chunk.start} on"
            )

    def _prompt(self, chunk: Chunk, row: SamplingRow | None) -> Output:
        """Put a prompt or a part of it through; what the model gives behind its last token."""
        sampling = np.array([self._sampling_row(row)], np.float32)
        slot, size = np.array([chunk.slot], np.int32), self._shape.prefill_chunk_size
        output: Output
        if not size:
            ids = np.array([chunk.token_ids], np.int32)
            output = self._model.forward(ids, np.arange(ids.size, dtype=np.int32)[None], slot, sampling)[0]
        else:
            for ids, positions in _chunks(chunk, size):
                output = self._model.prefill_chunk(ids, positions, slot, sampling)[0]
        self._lengths[chunk.slot] = chunk.start + len(chunk.token_ids)
        return output

    def _decode(self, singles: Sequence[Pair]) -> dict[int, Output]:
        """One token for each of these slots, all others parked; the output rows of these slots."""
        shape = self._shape
        ids, positions = np.zeros((shape.batch_size, 1), np.int32), self._parked_positions()
        sampling = np.array([GREEDY_ROW] * shape.batch_size, np.float32)
        for chunk, row in singles:
            ids[chunk.slot], positions[chunk.slot] = chunk.token_ids[0], chunk.start
            sampling[chunk.slot] = self._sampling_row(row)
        output = self._forward_rows(ids, positions, sampling, [chunk.slot for chunk, _ in singles])
        for chunk, _ in singles:
            self._lengths[chunk.slot] = chunk.start + 1
        return output

    def _forward_rows(
        self, ids: IntRows, positions: IntRows, sampling: Floats, slots: Sequence[int]
    ) -> dict[int, Output]:
        """The decode graph over all rows; what it gives for `slots`."""
        output = self._model.forward(ids, positions, np.arange(len(ids), dtype=np.int32), sampling)
        return {slot: output[slot] for slot in slots}

    def _parked_positions(self) -> IntRows:
        """Where each slot's next token goes `[B, 1]`. A full slot never advances: its last row is free to go."""
        last = self._shape.sequence_length - 1
        return np.array([[min(length, last)] for length in self._lengths], np.int32)

    def _sampling_row(self, row: SamplingRow | None) -> tuple[float, float, float]:
        if row is None or not self._shape.on_device_sampling or not row.params.do_sample:
            return GREEDY_ROW
        params = row.params
        # Beyond its candidates the device draws nothing, so no top-k means all of these.
        return float(params.top_k or self._shape.max_topk), _float32(params.top_p), _float32(params.temperature)

    def _choice(self, output: Output, row: SamplingRow) -> TokenChoice | None:
        """The token that the device has chosen, or the host's from logits `[1, V]`."""
        if output.ndim == 0:
            token_id = int(output)
            return TokenChoice(token_id, _UNKNOWN_LOGPROB) if 0 <= token_id < self._shape.vocab_size else None
        logits_V = output[:, : self._shape.vocab_size].astype(np.float32, copy=False)
        if not self._shape.on_device_sampling:
            return self._sampler.choose(logits_V, None, [row])[0]
        # Behind chunks there are logits: the first token alone is drawn here, from the device's candidates.
        params = replace(row.params, top_k=row.params.top_k or self._shape.max_topk)
        choice = self._sampler.choose(logits_V, None, [replace(row, params=params)])[0]
        return None if choice is None else TokenChoice(choice.token_id, _UNKNOWN_LOGPROB)

    def _num_padded(self, chunk: Chunk) -> int:
        size = self._shape.prefill_chunk_size
        return -len(chunk.token_ids) % size if size else self._shape.max_context_length - len(chunk.token_ids)

    def release(self) -> None:
        """Let go of the model."""
        self._model.release()


def _chunks(chunk: Chunk, size: int) -> Iterator[tuple[IntRows, IntRows]]:
    """Ids and positions `[1, size]` of a prompt's parts; the last token fills up, at its own position."""
    end = chunk.start + len(chunk.token_ids)
    for begin in range(chunk.start, end, size):
        positions = np.minimum(np.arange(begin, begin + size, dtype=np.int32), end - 1)
        yield np.asarray(chunk.token_ids, np.int32)[positions - chunk.start][None], positions[None]


def _float32(value: float) -> float:
    """A number above 0 that stays there as a float32: the library refuses 0."""
    return min(max(value, float(_FLOAT32.tiny)), float(_FLOAT32.max))


def _check_on_device(row: SamplingRow, max_topk: int) -> None:
    params = row.params
    neutral = SamplingParams()
    names = ("typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "top_n_tokens")
    refused = [name for name in names if getattr(params, name) != getattr(neutral, name)]
    if row.allowed is not None:
        refused.append("grammar")
    if refused:
        raise ValueError(f"`{refused[0]}` needs logits on the host; this artifact samples on the device")
    if params.top_k > max_topk:
        raise ValueError(f"`top_k` must be <= {max_topk}, the candidates of this artifact. Given: {params.top_k}")
