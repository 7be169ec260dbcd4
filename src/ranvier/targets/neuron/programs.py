"""The programs of an artifact, as functions of static shapes.

| program | inputs beside weights and state | gives |
| --- | --- | --- |
| `prefill_B` | B ids of one slot from position 0, right-padded | the last one's hidden state |
| `chunk_B` | the same behind rows that are there already | the same |
| `score_B` | the same and the B ids that follow | the same, and how likely each of those was |
| `decode_B` | a token for each slot; B rows of the cache are read | hidden states of all slots |
| `choose_first` | a hidden state of one slot, a sampling row, a grammar mask | a choice |
| `choose`, `choose_masked` | hidden states of all slots, sampling rows; masks | a choice for each slot |
| `choose_greedy` | hidden states of all slots, nothing to sample, penalize or mask | the same |
| `share` | two slots and a number of rows | |
| `clear` | a slot, whose rows become 0 | |
| `set_counts` | a slot and the row of its token counts | |

Logits live inside the programs that choose: a hidden state is all that passes from one program to the next, so that
neither the buckets of a decode nor those of a prompt are compiled anew for each way of choosing.

The state is the KV cache of the programs with tokens, and the token counts of those that choose. It goes in, is donated
and comes out in the same memory. A program writes the KV rows of its tokens and no other; a slot that does not advance
writes at the last position of its own (see `buckets`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ranvier.targets.neuron.attention import ChunkAttention, DecodeAttention, PrefillAttention, SlotWindow
from ranvier.targets.neuron.decoder import Caches
from ranvier.targets.neuron.layers import Weights
from ranvier.targets.neuron.sampling import INT_COLUMNS, REAL_COLUMNS, Choices, choose, log_probabilities
from ranvier.targets.neuron.sampling.choose import is_finite_number
from ranvier.targets.neuron.sampling.penalties import with_output
from ranvier.targets.neuron.shapes import Abstract, Shapes, abstract

ChooseKind: TypeAlias = Literal["choose", "choose_masked", "choose_greedy"]
DECODE_COLUMNS = ("id", "position", "is_active")
PLACE_COLUMNS = ("slot", "window_start", "first", "length")
"""Of a prompt: ids `first … first + length - 1` are real, and the one at index 0 has the position `window_start`."""


Held: TypeAlias = Literal["weights", "head", "caches", "counts"]
"""What stays on the device: all weights, those that make logits, the KV cache, the token counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`function` is jitted; `arguments` are abstract and lower it: `function.lower(*arguments)`.

    The first arguments are what `held` names. The last of them is donated where `has_state`, and comes back as the
    result, or as the first of two where the program `has_results` beside it.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    held: tuple[Held, ...]
    has_state: bool
    has_results: bool

    @property
    def inputs(self) -> tuple[Abstract, ...]:
        """The arguments that every call brings along."""
        return self.arguments[len(self.held) :]


class ProgramSet:
    """All programs for one set of shapes, made when they are asked for."""

    def __init__(self, shapes: Shapes, replaced: Callable[[Program], Callable[..., Any]] | None = None) -> None:
        """`replaced` gives the function to run instead of a program's own, such as a stored one."""
        self._shapes, self._decoder = shapes, shapes.decoder
        self._replaced = replaced
        self._made: dict[str, Program] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all programs, about those first that take longest to compile."""
        buckets = self._shapes.buckets
        kinds = {
            "prefill": buckets.prefill,
            "chunk": buckets.chunk,
            "score": (buckets.score,),
            "decode": buckets.decode,
        }
        with_tokens = [f"{kind}_{bucket}" for kind, all_of in kinds.items() for bucket in reversed(all_of)]
        choosing = ("choose_masked", "choose", "choose_first", "choose_greedy")
        return (*with_tokens, *choosing, "share", "clear", "set_counts")

    def all(self) -> tuple[Program, ...]:
        """Every program."""
        return tuple(self.named(name) for name in self.names)

    def named(self, name: str) -> Program:
        """One program by its name."""
        if name not in self._made:
            made = self._make(name)
            self._made[name] = made if self._replaced is None else replace(made, function=self._replaced(made))
        return self._made[name]

    def _make(self, name: str) -> Program:
        kind, _, bucket = name.partition("_")
        if kind == "decode":
            return self._decode(name, int(bucket))
        if kind in ("prefill", "chunk", "score"):
            return self._prompt(name, kind, int(bucket))
        return {
            "choose": lambda: self._choose("choose", has_mask=False),
            "choose_masked": lambda: self._choose("choose_masked", has_mask=True),
            "choose_greedy": self._choose_greedy,
            "choose_first": self._choose_first,
            "share": self._share,
            "clear": self._clear,
            "set_counts": self._set_counts,
        }[name]()

    @cached_property
    def caches(self) -> tuple[tuple[Abstract, Abstract], ...]:
        """The abstract KV cache: keys and values of each layer."""
        one = self._shapes.cache()
        return tuple((one, one) for _ in range(self._shapes.spec.num_layers))

    def _program(
        self,
        name: str,
        function: Callable[..., Any],
        held: tuple[Held, ...],
        *inputs: Abstract,
        has_state: bool = True,
        has_results: bool = True,
    ) -> Program:
        state = self.held(held[-1]) if has_state else None
        jitted = jax.jit(
            function, donate_argnums=len(held) - 1 if has_state else (), **self._placed(state, has_results)
        )
        return Program(
            name=name,
            function=jitted,
            arguments=(*(self.held(one) for one in held), *inputs),
            held=held,
            has_state=has_state,
            has_results=has_results,
        )

    def held(self, name: Held) -> Any:
        """The abstract arrays of something that stays on the device."""
        if name == "caches":
            return self.caches
        if name == "counts":
            return self._shapes.counts()
        weights = self._shapes.weights()
        return weights if name == "weights" else head_weights(weights)

    def _placed(self, state: Any, has_results: bool) -> dict[str, Any]:
        """Where results lie: the state where it was, all else on each core."""
        everywhere = self._shapes.parallel.everywhere()
        if everywhere is None:
            return {}
        if state is None:
            return {"out_shardings": everywhere}
        placements = jax.tree.map(lambda leaf: leaf.sharding, state)
        return {"out_shardings": (placements, everywhere) if has_results else placements}

    def _ints(self, *shape: int) -> Abstract:
        return abstract(shape, "int32", self._shapes.parallel.everywhere())

    def _reals(self, *shape: int) -> Abstract:
        return abstract(shape, "float32", self._shapes.parallel.everywhere())

    def _hidden(self, num_rows: int) -> Abstract:
        shape = (num_rows, self._shapes.spec.hidden_size)
        return abstract(shape, self._shapes.dtype, self._shapes.parallel.everywhere())

    def _rows(self, num_rows: int, *, has_mask: bool) -> tuple[Abstract, ...]:
        rows = self._ints(num_rows, len(INT_COLUMNS)), self._reals(num_rows, len(REAL_COLUMNS))
        return (*rows, self._ints(num_rows, self._shapes.mask_words)) if has_mask else rows

    def _decode(self, name: str, bucket: int) -> Program:
        decoder = self._decoder

        def decode(weights: Weights, caches: Caches, tokens: Array) -> tuple[Caches, Array]:
            ids, positions = tokens[:, 0], tokens[:, 1]
            attention = DecodeAttention(positions_S=positions, bucket=bucket)
            x_SD, caches = decoder.hidden(weights, ids, positions, caches, attention)
            return caches, x_SD

        tokens = self._ints(self._shapes.num_slots, len(DECODE_COLUMNS))
        return self._program(name, decode, ("weights", "caches"), tokens)

    def _prompt(self, name: str, kind: str, bucket: int) -> Program:
        decoder, vocab_size = self._decoder, self._shapes.spec.vocab_size

        def prompt(weights: Weights, caches: Caches, ids: Array, place: Array, *following: Array) -> Any:
            slot, start, first, length = (place[index] for index in range(len(PLACE_COLUMNS)))
            order = jnp.arange(bucket, dtype=jnp.int32)
            is_real = (order >= first) & (order < first + length)
            window = SlotWindow(slot=slot, start=start, is_real_T=is_real)
            behind = ChunkAttention(slot_window=window, positions_T=order + start)
            attention = PrefillAttention(slot_window=window) if kind == "prefill" else behind
            x_TD, caches = decoder.hidden(weights, ids, order + start, caches, attention)
            last = lax.dynamic_slice_in_dim(x_TD, first + length - 1, 1)
            is_finite = (is_finite_number(x_TD) | ~is_real[:, None]).all().astype(jnp.int32)
            if kind != "score":
                return caches, (last, is_finite)
            scores = log_probabilities(decoder.logits(weights, x_TD), following[0], vocab_size)
            return caches, (last, is_finite, scores)

        following = (self._ints(bucket),) if kind == "score" else ()
        inputs = (self._ints(bucket), self._ints(len(PLACE_COLUMNS)), *following)
        return self._program(name, prompt, ("weights", "caches"), *inputs)

    def _choices(self, head: Weights, x: Array, counts: Array | None = None, *rows: Array) -> Choices:
        shapes = self._shapes
        logits, placement = self._decoder.logits(head, x), shapes.parallel.rows(len(x))
        if placement is not None:
            logits = lax.with_sharding_constraint(logits, placement)  # type: ignore[no-untyped-call]  # JAX's
        ints, reals, mask = (*rows, None, None, None)[:3]
        fixed = {"vocab_size": shapes.spec.vocab_size, "num_top": shapes.num_top, "block": shapes.block}
        return choose(logits, ints=ints, reals=reals, counts_SV=counts, mask_SW=mask, **fixed)

    def _choose(self, name: str, *, has_mask: bool) -> Program:
        def choose_all(head: Weights, counts: Array, x_SD: Array, tokens: Array, *rows: Array) -> tuple[Array, Choices]:
            counts = with_output(counts, tokens[:, 0], tokens[:, 2] > 0)
            return counts, self._choices(head, x_SD, counts, *rows)

        num_slots = self._shapes.num_slots
        inputs = (self._hidden(num_slots), self._ints(num_slots, len(DECODE_COLUMNS)))
        rows = self._rows(num_slots, has_mask=has_mask)
        return self._program(name, choose_all, ("head", "counts"), *inputs, *rows)

    def _choose_greedy(self) -> Program:
        def choose_greedy(head: Weights, x_SD: Array) -> Choices:
            return self._choices(head, x_SD)

        hidden = self._hidden(self._shapes.num_slots)
        return self._program("choose_greedy", choose_greedy, ("head",), hidden, has_state=False)

    def _choose_first(self) -> Program:
        def choose_first(head: Weights, counts: Array, x: Array, slot: Array, *rows: Array) -> Choices:
            return self._choices(head, x, lax.dynamic_slice_in_dim(counts, slot, 1), *rows)

        inputs = (self._hidden(1), self._ints(), *self._rows(1, has_mask=True))
        return self._program("choose_first", choose_first, ("head", "counts"), *inputs, has_state=False)

    def _share(self) -> Program:
        length = self._shapes.cache_length

        def share(caches: Caches, source: Array, target: Array, num_tokens: Array) -> Caches:
            is_shared = jnp.arange(length, dtype=jnp.int32)[None, None, :, None] < num_tokens

            def copied(held: Array) -> Array:
                old, new = lax.dynamic_slice_in_dim(held, target, 1), lax.dynamic_slice_in_dim(held, source, 1)
                return lax.dynamic_update_slice_in_dim(held, jnp.where(is_shared, new, old), target, 0)

            shared: Caches = jax.tree.map(copied, caches)
            return shared

        inputs = (self._ints(), self._ints(), self._ints())
        return self._program("share", share, ("caches",), *inputs, has_results=False)

    def _clear(self) -> Program:
        def clear(caches: Caches, slot: Array) -> Caches:
            def cleared(held: Array) -> Array:
                nothing = jnp.zeros((1, *held.shape[1:]), held.dtype)
                return lax.dynamic_update_slice_in_dim(held, nothing, slot, 0)

            left: Caches = jax.tree.map(cleared, caches)
            return left

        return self._program("clear", clear, ("caches",), self._ints(), has_results=False)

    def _set_counts(self) -> Program:
        def set_counts(counts_SV: Array, slot: Array, counts_V: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(counts_SV, counts_V[None], slot, 0)

        inputs = (self._ints(), self._reals(self._shapes.vocab_size))
        return self._program("set_counts", set_counts, ("counts",), *inputs, has_results=False)


def head_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Those that turn hidden states into logits. Programs that choose get no others: passing hundreds takes time."""
    return {name: held for name, held in weights.items() if name in ("embed", "head") or name.startswith("final_norm")}


def zeros(of: Any) -> Any:
    """Arrays of these shapes in device memory, all zeros, placed as they say. Copied there: nothing is compiled."""
    return jax.tree.map(_zeros, of)


def _zeros(leaf: Abstract) -> Array:
    if leaf.sharding is None:
        return _zeros_on(jax.devices()[0], leaf.shape, leaf)
    shape = leaf.sharding.shard_shape(leaf.shape)
    parts = [_zeros_on(device, shape, leaf) for device in leaf.sharding.addressable_devices_indices_map(leaf.shape)]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)


def _zeros_on(device: jax.Device, shape: tuple[int, ...], leaf: Abstract) -> Array:
    # Not the host's own memory, where that would do for a device: state is donated.
    made: Array = jax.device_put(np.zeros(shape, leaf.dtype), device, may_alias=False)
    return made
