"""How long programs take, against the planner's bounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ranvier.core import Chunk, SamplingParams, SamplingRow, StepPlan
from ranvier.planner import Bound, Roofline
from ranvier.selfcheck.outcome import Notes
from ranvier.targets import Programs

if TYPE_CHECKING:
    from ranvier.selfcheck.device_steps import Device

REPEATS = 30
_LEAST_REPEATS = 5
_LIMIT_S = 3.0
"""For one measurement, once it has been repeated a few times."""
_BEHIND = 32
"""Tokens before a chunk."""
_TOKEN = 5

_DRAWN = SamplingParams(do_sample=True, top_p=0.9, temperature=0.8, repetition_penalty=1.1, seed=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A step to take times of: what it is called, how many tokens it gives or takes, and its bound where known."""

    name: str
    plan: StepPlan
    num_tokens: int
    bound: Bound | None


def check_timing(device: Device, notes: Notes) -> None:
    """Medians of whole steps, host and all, as a server has them."""
    roofline = _roofline(device)
    rows: list[tuple[str, ...]] = [("step", "median ms", "tokens/s", "bound ms", "of bound")]
    for each in _measurements(device, roofline):
        seconds = median_s(device.programs, each.plan)
        rows.append(_row(each, seconds))
        if each.bound is not None:
            notes.expect(seconds >= each.bound.seconds, f"{each.name} is faster than its bound, which must be wrong")
    notes.lines += _table(rows)
    if roofline is None:
        notes.say("no bounds: the chip is not known")
    else:
        notes.say(f"bounds: {roofline.chip.name}, LNC {roofline.lnc}, {roofline.num_cores} cores, {roofline.cast_type}")
    if device.order.emulate:
        notes.say("these are times of this machine's processor and say nothing about a device")
    if device.order.is_tiny:
        notes.say("a tiny model is bound by launches and the host: --model-id takes times of a real one")


def _roofline(device: Device) -> Roofline | None:
    chip, host = device.host.chip, device.host
    if chip is None:
        return None
    return Roofline(
        spec=device.spec, chip=chip, lnc=host.lnc, num_cores=device.neuron.num_cores, cast_type=device.cast_type
    )


def _measurements(device: Device, roofline: Roofline | None) -> Iterator[Measurement]:
    neuron, manifest = device.neuron, device.artifact.manifest
    slots, length = manifest.batch_size, manifest.sequence_length
    for bucket in neuron.prefill:
        bound = roofline.prefill(bucket) if roofline else None
        yield _prompt(f"prefill of {bucket}", 0, min(bucket, length - 1), bound)
    for bucket in neuron.chunk:
        bound = roofline.prefill(bucket, neuron.decode[-1]) if roofline else None
        yield _prompt(f"chunk of {bucket}", _BEHIND, min(bucket, length - 1 - _BEHIND), bound)
    for bucket in neuron.decode:
        bound = roofline.decode(slots, bucket) if roofline else None
        last = min(bucket, length) - 1
        yield _decode(f"decode of {slots} at {bucket}", slots, last, SamplingParams(), bound)
    yield _decode(f"decode of {slots} at {bucket}, drawn", slots, last, _DRAWN, bound)


def _prompt(name: str, start: int, count: int, bound: Bound | None) -> Measurement:
    ids = [_TOKEN] * (start + count)
    plan = StepPlan((Chunk(0, ids[start:], start, True),), (), (SamplingRow(SamplingParams(), 0, ids),))
    return Measurement(name=name, plan=plan, num_tokens=count, bound=bound)


def _decode(name: str, slots: int, position: int, params: SamplingParams, bound: Bound | None) -> Measurement:
    chunks = tuple(Chunk(slot, [_TOKEN], position, True) for slot in range(slots))
    row = SamplingRow(params, 1, [_TOKEN, _TOKEN])
    return Measurement(name=name, plan=StepPlan(chunks, (), (row,) * slots), num_tokens=slots, bound=bound)


def median_s(programs: Programs, plan: StepPlan, repeats: int = REPEATS) -> float:
    """Median seconds of a step, after one that is not counted."""
    programs.run(plan)
    began_s = time.perf_counter()
    times: list[float] = []
    while len(times) < repeats:
        before_s = time.perf_counter()
        programs.run(plan)
        times.append(time.perf_counter() - before_s)
        if len(times) >= _LEAST_REPEATS and time.perf_counter() - began_s > _LIMIT_S:
            break
    return statistics.median(times)


def _row(each: Measurement, seconds: float) -> tuple[str, ...]:
    bound = ("", "")
    if each.bound is not None:
        bound = f"{each.bound.seconds * 1e3:.3f} ({each.bound.limit})", f"{each.bound.seconds / seconds:.1%}"
    return (each.name, f"{seconds * 1e3:.2f}", f"{each.num_tokens / seconds:.0f}", *bound)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
