"""Step plans on the programs: chunks one after the other, decodes all rows at once.

What happens on the host in a step is filling small arrays and reading small ones: ids, positions and sampling rows in,
tokens and log-probabilities out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from ranvier.core import (
    Capabilities,
    Chunk,
    Limits,
    PrefixShare,
    SamplingRow,
    StepPlan,
    StepResult,
)
from ranvier.errors import OptionError
from ranvier.models import DecoderSpec, PackedWeights
from ranvier.targets.neuron.buckets import (
    CHUNK_TOKENS,
    Buckets,
    Piece,
    check_buckets,
    default_buckets,
    pieces,
    smallest,
)
from ranvier.targets.neuron.programs import ChooseKind, Held, ProgramSet, head_weights, zeros
from ranvier.targets.neuron.results import PendingChoice, PendingScores, Results
from ranvier.targets.neuron.sampling import Choices, packed_mask, packed_rows
from ranvier.targets.neuron.sampling.penalties import counts_of
from ranvier.targets.neuron.shapes import ComputeType, Shapes
from ranvier.targets.neuron.sharding import over, over_cores
from ranvier.targets.neuron.shards import load_shards
from ranvier.targets.neuron.slots import SlotNotes
from ranvier.targets.neuron.stored import StoredPrograms
from ranvier.targets.neuron.weights import load_weights

CAPABILITIES = Capabilities(mixed_steps=False, chunk_multiple=CHUNK_TOKENS, prefix_sharing=True)
DEFAULT_NUM_TOP = 8

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronOptions:
    """What an artifact is exported with.

    * `num_cores`: devices the decoder is spread over, from the first one on.
    * `num_top`: the most `top_n_tokens` that a request can have.
    * `buckets`: None takes powers of two.
    """

    dtype: ComputeType = "bfloat16"
    num_cores: int = 1
    num_top: int = DEFAULT_NUM_TOP
    buckets: Buckets | None = None


def shapes_of(
    spec: DecoderSpec, limits: Limits, options: NeuronOptions, devices: Sequence[jax.Device] | None = None
) -> Shapes:
    """The static shapes for the first of these devices; without any, to lower programs on a host that has none.

    Raises `OptionError` when options, limits and devices contradict each other.
    """
    num_cores = options.num_cores
    if num_cores < 1 or (devices is not None and len(devices) < num_cores):
        bound = "" if devices is None else f" and <= {len(devices)}, the devices there are"
        raise OptionError(f"`num_cores` must be >= 1{bound}. Given: {num_cores}")
    return Shapes(
        spec=spec,
        limits=limits,
        buckets=check_buckets(options.buckets or default_buckets(limits), limits),
        parallel=over_cores(num_cores, spec) if devices is None else over(devices[:num_cores], spec),
        dtype=options.dtype,
        num_top=options.num_top,
    )


def load_neuron(
    spec: DecoderSpec,
    weights_path: Path,
    limits: Limits,
    options: NeuronOptions,
    devices: Sequence[jax.Device] | None = None,
) -> NeuronPrograms:
    """Place the weights and claim the KV memory; programs compile when first run, or in `warm_up`.

    `devices` are those of JAX's default platform unless given. Raises `OptionError` when there are too few.
    """
    shapes = shapes_of(spec, limits, options, jax.devices() if devices is None else devices)
    return NeuronPrograms(shapes, load_weights(shapes, PackedWeights(weights_path)))


def load_artifact(
    spec: DecoderSpec,
    directory: Path,
    limits: Limits,
    options: NeuronOptions,
    devices: Sequence[jax.Device] | None = None,
) -> NeuronPrograms:
    """The same from an artifact's own files: weights as the cores hold them, and programs as they were lowered.

    Raises also `ModelError` and `ArtifactError` when a file is damaged or made for something else.
    """
    found = jax.devices() if devices is None else devices
    shapes = shapes_of(spec, limits, options, found)
    return NeuronPrograms(shapes, load_shards(shapes, directory), StoredPrograms(directory, found[0]))


class NeuronPrograms:
    """The programs of one decoder with their weights and state. Owned by one thread; see `targets.Programs`."""

    def __init__(self, shapes: Shapes, weights: dict[str, jax.Array], stored: StoredPrograms | None = None) -> None:
        self._shapes = shapes
        self._programs = ProgramSet(shapes, stored.function if stored else None)
        self._held: dict[Held, Any] = {
            "weights": weights,
            "head": head_weights(weights),
            "caches": zeros(self._programs.caches),
            "counts": zeros(shapes.counts()),
        }
        self._notes = SlotNotes(shapes.num_slots)
        # id, position, is_active of slots that do not advance.
        self._parked = np.tile(np.array([0, shapes.cache_length - 1, 0], np.int32), (shapes.num_slots, 1))

    @property
    def capabilities(self) -> Capabilities:
        """Prefill and decode apart, chunks, shared prefixes, every sampling parameter."""
        return replace(CAPABILITIES, max_top_n_tokens=self._shapes.num_top)

    @property
    def details(self) -> dict[str, str]:
        """Platform, cores, types, sizes, library version."""
        shapes = self._shapes
        return {
            "dtype": shapes.dtype,
            "platform": next(iter(self._held["counts"].devices())).platform,
            "num_cores": str(shapes.parallel.num_cores),
            "spread": shapes.parallel.describe(),
            "jax": jax.__version__,
            "num_programs": str(len(self._programs.names)),
            "kv_cache_mb": str(shapes.kv_bytes // 2**20),
        }

    def warm_up(self) -> None:
        """Compile every program and run it once, before anybody is served: slot 0 is written to, then cleared."""
        for program in self._programs.all():
            inputs = [np.zeros(each.shape, each.dtype) for each in program.inputs]
            kind = program.name.partition("_")[0]
            if kind == "choose":
                inputs[0] = zeros(program.inputs[0])
            elif kind == "decode":
                inputs[0] = self._parked
            elif kind in ("prefill", "chunk", "score"):
                # One token at position 0 of slot 0.
                inputs[1] = np.array([0, 0, 0, 1], np.int32)
            self._run(program.name, *inputs)
        jax.block_until_ready(self._held)  # type: ignore[no-untyped-call]  # a function of JAX

    def run(self, plan: StepPlan) -> StepResult:
        """See `Programs.run`. Logits stay on the device."""
        self._check_rows(plan.rows)
        for share in plan.shares:
            self._share(share)
        left = iter(plan.rows)
        pairs = [(chunk, next(left) if chunk.wants_logits else None) for chunk in plan.chunks]
        results = Results()
        decodes = [(chunk, row) for chunk, row in pairs if row is not None and _is_decode(chunk, row)]
        decoded = self._decode(decodes, results) if decodes else None
        for chunk, row in pairs:
            if row is not None and decoded is not None and _is_decode(chunk, row):
                results.choices.append(PendingChoice(decoded, chunk.slot, chunk.slot, row))
            else:
                self._prompt(chunk, row, results)
        result, spoiled = results.read()
        self._notes.note_spoiled(spoiled)
        return result

    def _check_rows(self, rows: Sequence[SamplingRow]) -> None:
        """Before anything runs: a request beyond what the programs report has got past admission."""
        wanted, limit = max((row.params.top_n_tokens for row in rows), default=0), self._shapes.num_top
        if wanted > limit:
            raise ValueError(f"`top_n_tokens` must be <= {limit}, what the artifact was exported for. Given: {wanted}")

    def _run(self, name: str, *inputs: Any) -> Any:
        """Queue a program on the device; what it gives beside the state."""
        program, held = self._programs.named(name), self._held
        given = program.function(*(held[one] for one in program.held), *inputs)
        if not program.has_state:
            return given
        held[program.held[-1]], results = given if program.has_results else (given, None)
        return results

    def _share(self, share: PrefixShare) -> None:
        if share.source != share.target and share.num_tokens > 0:
            self._clear_if_spoiled(share.target)
            self._run("share", np.int32(share.source), np.int32(share.target), np.int32(share.num_tokens))

    def _decode(self, decodes: Sequence[tuple[Chunk, SamplingRow]], results: Results) -> Choices:
        """One token for each of these slots; the others are parked."""
        tokens = self._parked.copy()
        for chunk, row in decodes:
            tokens[chunk.slot] = chunk.token_ids[0], chunk.start, 1
            self._follow(chunk.slot, row)
        bucket = smallest(self._shapes.buckets.decode, max(chunk.start for chunk, _ in decodes) + 1)
        results.num_padded += len(tokens) - len(decodes)
        hidden = self._run(f"decode_{bucket}", tokens)
        kind = _choose_kind([row for _, row in decodes])
        choices: Choices
        if kind == "choose_greedy":
            choices = self._run(kind, hidden)
            return choices
        rows = self._row_inputs([(c.slot, row) for c, row in decodes], len(tokens), has_mask=kind == "choose_masked")
        choices = self._run(kind, hidden, tokens, *rows)
        return choices

    def _row_inputs(self, rows: list[tuple[int, SamplingRow]], num_rows: int, *, has_mask: bool) -> tuple[Any, ...]:
        packed = packed_rows(rows, num_rows)
        return (*packed, packed_mask(rows, num_rows, self._shapes.mask_words)) if has_mask else packed

    def _follow(self, slot: int, row: SamplingRow) -> None:
        """See that the token counts are those before the token that is about to be put through."""
        if row.params.needs_history and not self._notes.has_counts(slot, row.token_index - 1):
            self._set_counts(slot, row.history[:-1], row.token_index - 1)
        self._notes.note_counts(slot, row)

    def _set_counts(self, slot: int, history: Sequence[int], num_generated: int) -> None:
        self._run("set_counts", np.int32(slot), counts_of(history, num_generated, self._shapes.vocab_size))

    def _prompt(self, chunk: Chunk, row: SamplingRow | None, results: Results) -> None:
        """Put a prompt or a part of one through, in pieces where it is longer than the largest bucket."""
        if chunk.start == 0:
            self._clear_if_spoiled(chunk.slot)
        if chunk.scored_ids:
            results.scores.append([])
        hidden = None
        for kind, piece in prompt_pieces(self._shapes.buckets, chunk):
            hidden = self._piece(chunk, kind, piece, results)
            results.num_padded += piece.bucket - piece.length
        if row is not None:
            self._choose_first(chunk.slot, row, hidden, results)

    def _choose_first(self, slot: int, row: SamplingRow, hidden: Any, results: Results) -> None:
        if row.params.needs_history:
            self._set_counts(slot, row.history, row.token_index)
        self._notes.note_counts(slot, row)
        inputs = self._row_inputs([(0, row)], 1, has_mask=True)
        choices: Choices = self._run("choose_first", hidden, np.int32(slot), *inputs)
        results.choices.append(PendingChoice(choices, 0, slot, row))

    def _piece(self, chunk: Chunk, kind: str, piece: Piece, results: Results) -> Any:
        """Run one program. Where the bucket would reach beyond the cache, its ids begin with padding instead."""
        begin, end = piece.first, piece.first + piece.length
        window_start = min(chunk.start + begin, self._shapes.cache_length - piece.bucket)
        first = chunk.start + begin - window_start
        ids = _padded(chunk.token_ids[begin:end], first, piece.bucket)
        place = np.array([chunk.slot, window_start, first, piece.length], np.int32)
        scored = chunk.scored_ids[begin:end]
        following = (_padded(scored, first, piece.bucket),) if kind == "score" else ()
        hidden, is_finite, *scores = self._run(f"{kind}_{piece.bucket}", ids, place, *following)
        results.checks.append((chunk.slot, is_finite))
        if scores:
            results.scores[-1].append(PendingScores(scores[0], first, len(scored)))
        return hidden

    def _clear_if_spoiled(self, slot: int) -> None:
        """A row that is not seen counts 0 times its value, and that is NaN where the value is: it must not stay."""
        if self._notes.take_spoiled(slot):
            self._run("clear", np.int32(slot))

    def release(self) -> None:
        """Let go of weights and state."""
        self._held.clear()

    def check(self) -> None:
        """Assert that the state still lives and has its shapes."""
        for name in ("caches", "counts"):
            leaves = zip(jax.tree.leaves(self._held[name]), jax.tree.leaves(self._programs.held(name)), strict=True)
            for leaf, abstract in leaves:
                assert not leaf.is_deleted(), f"a program kept the memory of the {name}"
                assert (leaf.shape, leaf.dtype) == (abstract.shape, abstract.dtype), f"the {name} changed their shape"


def _is_decode(chunk: Chunk, row: SamplingRow) -> bool:
    """Whether it goes into the program of all slots. A prompt's lone last token does not: it is no output."""
    return chunk.start > 0 and len(chunk.token_ids) == 1 and row.token_index > 0 and not chunk.scored_ids


def _choose_kind(rows: Sequence[SamplingRow]) -> ChooseKind:
    if any(row.allowed is not None for row in rows):
        return "choose_masked"
    return "choose" if any(row.params.do_sample or row.params.needs_history for row in rows) else "choose_greedy"


def prompt_pieces(buckets: Buckets, chunk: Chunk) -> list[tuple[str, Piece]]:
    """The programs, by their kind, that a chunk takes, and its tokens in each."""
    length = len(chunk.token_ids)
    if chunk.scored_ids:
        return [("score", piece) for piece in pieces((buckets.score,), length)]
    if chunk.start > 0:
        return [("chunk", piece) for piece in pieces(buckets.chunk, length)]
    head = Piece(0, min(length, buckets.prefill[-1]), smallest(buckets.prefill, length))
    rest = pieces(buckets.chunk, length - head.length)
    behind = [Piece(head.length + piece.first, piece.length, piece.bucket) for piece in rest]
    return [("prefill", head), *(("chunk", piece) for piece in behind)]


def _padded(ids: Sequence[int], first: int, length: int) -> Ints:
    """The ids from index `first` on, 0 elsewhere."""
    padded = np.zeros(length, np.int32)
    padded[first : first + len(ids)] = ids
    return padded
