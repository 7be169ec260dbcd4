"""Choosing cores, batch and sequence where they are not given, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ranvier.errors import ModelError, OptionError
from ranvier.neuron_host import GIB
from ranvier.planner.fitting import Fit
from ranvier.planner.instances import INSTANCES
from ranvier.planner.memory import CoreMemory
from ranvier.planner.sharding import even_core_counts, uneven_words

WANTED_BATCH = 8
"""Slots that cores are chosen for when no batch is given: enough that weights are read for several rows at a time."""

MOST_PICKED_SLOTS = 32
"""The largest batch that is picked; a larger one can be given."""

WANTED_SEQUENCE = 4096
SHORTEST_SEQUENCE = 256
"""Where picking gives up to shorten the sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was given; None is open."""

    num_cores: int | None = None
    batch_size: int | None = None
    sequence_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a plan is for, and why: one sentence for each of cores, sequence and batch."""

    num_cores: int
    batch_size: int
    sequence_length: int
    reasons: tuple[str, ...]


def choose(fit: Fit, wish: Wish) -> Choice:
    """Settle what is open. Everything returned fits.

    1. The sequence is 4096 tokens or what the model can do, halved while not one slot of it fits.
    2. Cores start at one chip's and go up until the batch (8 where none is given) fits; other cores of the instance are
       for further engines, which scale better than a wider group.
    3. The batch is the largest power of two up to 32 that fits.

    Raises `OptionError` for a wish that is out of bounds or does not fit, `ModelError` when nothing of the model fits.
    """
    _check(fit, wish)
    counts = (wish.num_cores,) if wish.num_cores else _candidates(fit)
    sequence, why_sequence = _sequence(fit, wish, counts[-1])
    num_cores = _cores(fit, counts, wish.batch_size, sequence)
    if not fit.fits(num_cores, wish.batch_size or 1, sequence):
        raise _refusal(fit, num_cores, wish.batch_size or 1, sequence)
    batch = wish.batch_size or _picked_batch(fit.largest_batch(num_cores, sequence))
    reasons = (
        _why_cores(fit, wish, num_cores, batch, sequence),
        why_sequence,
        _why_batch(fit, wish, num_cores, batch, sequence),
    )
    return Choice(num_cores=num_cores, batch_size=batch, sequence_length=sequence, reasons=reasons)


def _check(fit: Fit, wish: Wish) -> None:
    if wish.num_cores is not None and wish.num_cores > fit.num_cores:
        raise OptionError(
            f"`num_cores` must be <= {fit.num_cores}, the NeuronCores of {fit.instance.name} at LNC {fit.lnc}. "
            f"Given: {wish.num_cores}"
        )
    longest = fit.spec.max_positions
    if wish.sequence_length is not None and wish.sequence_length > longest:
        raise OptionError(
            f"`sequence_length` must be <= {longest}, for which the model was made. Given: {wish.sequence_length}"
        )


def _candidates(fit: Fit) -> tuple[int, ...]:
    """Counts that split evenly, ascending, from the largest that is inside one chip."""
    counts = even_core_counts(fit.spec, fit.num_cores)
    chip = max(count for count in counts if count <= fit.instance.chip.num_cores(fit.lnc))
    return tuple(count for count in counts if count >= chip)


def _sequence(fit: Fit, wish: Wish, most_cores: int) -> tuple[int, str]:
    if wish.sequence_length is not None:
        return wish.sequence_length, f"sequence_length {wish.sequence_length}: given"
    wanted = min(WANTED_SEQUENCE, fit.spec.max_positions)
    sequence = wanted
    while sequence // 2 >= SHORTEST_SEQUENCE and not fit.fits(most_cores, wish.batch_size or 1, sequence):
        sequence //= 2
    if sequence < wanted:
        return sequence, f"sequence_length {sequence}: {wanted} was halved until the batch fits"
    limit = "all that the model was made for" if wanted == fit.spec.max_positions else "the usual length"
    return sequence, f"sequence_length {sequence}: {limit}"


def _cores(fit: Fit, counts: tuple[int, ...], batch_size: int | None, sequence: int) -> int:
    wanted = batch_size or WANTED_BATCH
    return next((count for count in counts if fit.fits(count, wanted, sequence)), counts[-1])


def _picked_batch(largest: int) -> int:
    return 1 << (min(largest, MOST_PICKED_SLOTS).bit_length() - 1)


def _why_cores(fit: Fit, wish: Wish, num_cores: int, batch: int, sequence: int) -> str:
    if wish.num_cores is not None:
        return f"num_cores {num_cores}: given{_uneven(fit, num_cores)}"
    wanted = wish.batch_size or WANTED_BATCH
    counts = _candidates(fit)
    if not fit.fits(num_cores, wanted, sequence):
        reason = f"the most that split the model evenly; {wanted} x {sequence} does not fit"
    elif num_cores == counts[0]:
        reason = _why_first(fit, num_cores)
    else:
        before = counts[counts.index(num_cores) - 1]
        reason = f"the fewest that hold {wanted} x {sequence} and split the model evenly; {before} do not hold it"
    return f"num_cores {num_cores}: {reason}"


def _why_first(fit: Fit, num_cores: int) -> str:
    chip = fit.instance.chip.num_cores(fit.lnc)
    inside = "one chip" if num_cores == chip else f"as many of the {chip} of one chip as split the model evenly"
    return inside if num_cores == fit.num_cores else f"{inside}; the other cores serve more as engines of their own"


def _uneven(fit: Fit, num_cores: int) -> str:
    whole = uneven_words(fit.spec, num_cores)
    even = ", ".join(map(str, even_core_counts(fit.spec, fit.num_cores)))
    return f"; every core computes {whole} in full, which {num_cores} does not split ({even} do)" if whole else ""


def _why_batch(fit: Fit, wish: Wish, num_cores: int, batch: int, sequence: int) -> str:
    if wish.batch_size is not None:
        return f"batch_size {batch}: given"
    largest = fit.largest_batch(num_cores, sequence)
    return f"batch_size {batch}: the largest power of two up to {MOST_PICKED_SLOTS} that fits; at most {largest} do"


def _refusal(fit: Fit, num_cores: int, batch: int, sequence: int) -> OptionError | ModelError:
    """The error for a batch and sequence that do not fit on that many cores, with what would."""
    memory = fit.memory(num_cores, batch, sequence)
    each = "the NeuronCore" if num_cores == 1 else f"each of {num_cores} NeuronCores"
    needs = f"{each} would need {memory_words(memory)} and has {gib(fit.capacity)}"
    if not fit.fits(num_cores, 1, 1):
        return ModelError(
            f"`model_id`: the model does not fit on {fit.instance.name}: for {batch} x {sequence} tokens "
            f"{needs}; {_what_holds(fit, num_cores)}"
        )
    batch_limit, length_limit = fit.largest_batch(num_cores, sequence), fit.largest_sequence(num_cores, batch)
    return OptionError(
        f"`batch_size` {batch} x `sequence_length` {sequence} does not fit on {fit.instance.name}: {needs}; "
        f"what fits: batch_size <= {batch_limit} at this length, sequence_length <= {length_limit} at this batch"
    )


def _what_holds(fit: Fit, num_cores: int) -> str:
    """More cores of the instance, else the first instance of the table, that hold one slot of the usual length."""
    more = next((count for count in _candidates(fit) if count > num_cores and _holds_slot(fit, count)), None)
    if more is not None:
        return f"`num_cores` {more} would hold it"
    for instance in INSTANCES:
        other = replace(fit, instance=instance, lnc=instance.chip.default_lnc)
        if any(_holds_slot(other, count) for count in _candidates(other)):
            return f"{instance.name} would hold it"
    return "no instance in the table holds it"


def _holds_slot(fit: Fit, num_cores: int) -> bool:
    return fit.fits(num_cores, 1, min(WANTED_SEQUENCE, fit.spec.max_positions))


def gib(num_bytes: float) -> str:
    """Bytes in words: `7.5 GiB`, `0.05 GiB`."""
    value = num_bytes / GIB
    return f"{value:.1f} GiB" if value >= 0.95 else f"{value:.2f} GiB"


def memory_words(memory: CoreMemory) -> str:
    """A core's total and its parts, largest first, those under a hundredth of a GiB left out."""
    parts = {
        "weights": memory.weights,
        "KV cache": memory.kv_cache,
        "logits and counts": memory.logits + memory.counts,
        "scratch": memory.scratch,
        "reserve": memory.reserve,
    }
    words = [f"{name} {value / GIB:.2f}" for name, value in sorted(parts.items(), key=lambda part: -part[1])]
    return f"{gib(memory.total)} ({', '.join(words)})"
