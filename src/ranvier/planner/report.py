"""A plan as text of at most 120 columns, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from ranvier.neuron_host import GIB
from ranvier.planner.fitting import MOST_SLOTS
from ranvier.planner.picking import gib
from ranvier.planner.plan import Plan
from ranvier.planner.roofline import Bound, Roofline
from ranvier.planner.sharding import even_core_counts

_MOST_ROWS = 8


def plan_text(plan: Plan, model_id: str) -> str:
    """The plan as tables; every estimated figure has a `~`, every bound is called one."""
    blocks = [
        _head(plan, model_id),
        "Chosen:\n" + "\n".join(_wrapped(reason) for reason in plan.choice.reasons),
        _memory_block(plan),
        _host_block(plan),
        _largest_block(plan),
        _decode_block(plan),
        _prefill_block(plan),
        _cores_block(plan),
        "~ marks estimates. Bounds leave out the sums over cores, the sampler and launches: real speed is lower.\n"
        "No Neuron device has confirmed these figures yet; docs/neuron.md says what would.",
    ]
    return "\n\n".join(blocks) + "\n"


def _head(plan: Plan, model_id: str) -> str:
    fit, choice = plan.fit, plan.choice
    spec, chip, instance = fit.spec, fit.instance.chip, fit.instance
    host = "host unknown" if instance.host_bytes is None else f"{instance.vcpus} vCPU, {gib(instance.host_bytes)} host"
    chips = "1 chip" if instance.num_chips == 1 else f"{instance.num_chips} chips"
    return (
        f"{model_id}\n"
        f"{spec.num_parameters / 1e9:.2f} B parameters, {spec.num_layers} layers, {spec.num_heads} heads, "
        f"{spec.num_kv_heads} KV heads, {fit.cast_type}\n"
        f"{instance.name}: {chips} {chip.name}, {fit.num_cores} NeuronCores (LNC {fit.lnc}) of {gib(fit.capacity)}, "
        f"{host}\n"
        f"Plan: {choice.num_cores} cores, batch_size {choice.batch_size}, sequence_length {choice.sequence_length}; "
        f"room for {plan.num_engines} such {'engine' if plan.num_engines == 1 else 'engines'}"
    )


def _wrapped(reason: str) -> str:
    return textwrap.fill(reason, 118, initial_indent="  ", subsequent_indent="    ")


def _memory_block(plan: Plan) -> str:
    memory, capacity = plan.memory, plan.fit.capacity
    rows = [
        ("weights", memory.weights, ""),
        ("KV cache", memory.kv_cache, ""),
        ("token counts", memory.counts, ""),
        ("logits", memory.logits, "~"),
        ("scratch", memory.scratch, "~"),
        ("programs, runtime", memory.reserve, "~"),
        ("total", memory.total, "~"),
        ("of", capacity, ""),
    ]
    cells = [(name, mark + _gib_cell(size), f"{size / capacity:.0%}") for name, size, mark in rows]
    return "Memory of each core:\n" + _table(("", "GiB", "of core"), cells)


def _gib_cell(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f}" if num_bytes >= GIB / 100 else "<0.01"


def _host_block(plan: Plan) -> str:
    host, count = plan.host, plan.parallel_compiles
    if count is None:
        compiling = "host memory unknown"
    elif count == 0:
        compiling = "more than this host has: compile on a larger instance of the same chip"
    else:
        compiling = f"{count} at a time on this host"
    rows = [
        ("export (write shards)", f"~{host.export / GIB:.1f}", ""),
        ("compile one program", f"~{host.compile_one / GIB:.1f}", f"{plan.buckets.num_programs} programs, {compiling}"),
        ("load", f"~{host.load / GIB:.1f}", "a core's shard at a time"),
    ]
    return "Host memory:\n" + _table(("", "GiB", ""), rows)


def _largest_block(plan: Plan) -> str:
    lengths = _thinned(_lengths(plan))
    batches = [largest_batches(plan, length) for length in lengths]
    header = ("sequence_length", *map(str, lengths))
    return f"Largest batch on {plan.choice.num_cores} cores:\n" + _table(header, [("batch_size", *batches)])


def _lengths(plan: Plan) -> list[int]:
    lengths = {1 << power for power in range(10, 31) if 1 << power <= plan.fit.spec.max_positions}
    return sorted(lengths | {plan.choice.sequence_length, plan.fit.spec.max_positions})


def largest_batches(plan: Plan, sequence_length: int) -> str:
    """The largest batch of that length as text; the search ends at `MOST_SLOTS`."""
    largest = plan.fit.largest_batch(plan.choice.num_cores, sequence_length)
    return f">={MOST_SLOTS}" if largest == MOST_SLOTS else str(largest) if largest else "-"


def _decode_block(plan: Plan) -> str:
    contexts = _thinned(plan.buckets.decode, 4)
    header = ("batch", *(f"{context} tokens" for context in contexts), "bound by")
    rows = [_decode_row(plan.roofline, batch, contexts) for batch in _batches(plan)]
    return "Decode, upper bound in tokens/s of all rows, by context of the program:\n" + _table(header, rows)


def _decode_row(roofline: Roofline, batch: int, contexts: Sequence[int]) -> tuple[str, ...]:
    bounds = [roofline.decode(batch, context) for context in contexts]
    return (str(batch), *(f"{batch / bound.seconds:.0f}" for bound in bounds), _limits(bounds))


def _limits(bounds: Sequence[Bound]) -> str:
    return ", ".join(dict.fromkeys(bound.limit for bound in bounds))


def _batches(plan: Plan) -> tuple[int, ...]:
    batch = plan.choice.batch_size
    return tuple(_thinned(sorted({1 << power for power in range(batch.bit_length())} | {batch})))


def _prefill_block(plan: Plan) -> str:
    rows: list[tuple[str, ...]] = [
        (str(bucket), "1", _milliseconds(plan.roofline.prefill(bucket).seconds), plan.roofline.prefill(bucket).limit)
        for bucket in plan.buckets.prefill
    ]
    largest, longest = plan.buckets.prefill[-1], plan.choice.sequence_length - 1
    if longest > largest:
        calls, seconds = plan.roofline.first_token(longest, plan.buckets)
        rows.append((str(longest), str(calls), _milliseconds(seconds), "chunks"))
    return "Time to first token, lower bound, nothing else running:\n" + _table(
        ("prompt up to", "calls", "ms", "bound by"), rows
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _cores_block(plan: Plan) -> str:
    even = _thinned(even_core_counts(plan.fit.spec, plan.fit.num_cores))
    counts = sorted({*even, plan.choice.num_cores})
    rows = [_cores_row(plan, count) for count in counts]
    header = ("cores", "weights GiB", "largest batch", "engines", "1 row", f"{plan.choice.batch_size} rows")
    title = (
        f"Other core counts, at sequence_length {plan.choice.sequence_length}, tokens/s of one engine (upper bound):"
    )
    return title + "\n" + _table(header, rows)


def _cores_row(plan: Plan, count: int) -> tuple[str, ...]:
    fit, choice = plan.fit, plan.choice
    roofline = Roofline(spec=fit.spec, chip=fit.instance.chip, lnc=fit.lnc, num_cores=count, cast_type=fit.cast_type)
    largest = fit.largest_batch(count, choice.sequence_length)
    weights = f"{fit.memory(count, 1, 1).weights / GIB:.2f}"
    speeds = [
        f"{roofline.tokens_per_second(batch, choice.sequence_length):.0f}" if batch <= largest else "-"
        for batch in (1, choice.batch_size)
    ]
    mark = " *" if count == choice.num_cores else ""
    most = f">={MOST_SLOTS}" if largest == MOST_SLOTS else str(largest)
    return (f"{count}{mark}", weights, most, str(fit.num_cores // count), *speeds)


def _thinned(values: Sequence[int], most: int = _MOST_ROWS) -> list[int]:
    """At most `most` of the values, spread evenly, the first and last among them."""
    if len(values) <= most:
        return list(values)
    last = len(values) - 1
    return [values[round(index * last / (most - 1))] for index in range(most)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right, the last to the left where it is words."""
    lines = [header, *rows] if any(header) else list(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    is_words = [column == 0 or not any(_is_figure(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(line, widths, is_words, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_figure(cell: str) -> bool:
    return cell == "-" or (cell.lstrip("~<>=")[:1].isdigit() and cell.count(" ") == cell.count(" *"))


def plan_json(plan: Plan, model_id: str) -> dict[str, Any]:
    """The plan in values that JSON has: bytes, seconds, tokens/s; `estimates` names the fields that are estimates."""
    fit, choice, roofline = plan.fit, plan.choice, plan.roofline
    return {
        "model_id": model_id,
        "instance": fit.instance.name,
        "chip": fit.instance.chip.name,
        "lnc": fit.lnc,
        "auto_cast_type": fit.cast_type,
        "num_parameters": fit.spec.num_parameters,
        "num_cores": choice.num_cores,
        "batch_size": choice.batch_size,
        "sequence_length": choice.sequence_length,
        "reasons": list(choice.reasons),
        "num_engines": plan.num_engines,
        "num_programs": plan.buckets.num_programs,
        "prefill_buckets": list(plan.buckets.prefill),
        "chunk_buckets": list(plan.buckets.chunk),
        "decode_buckets": list(plan.buckets.decode),
        "core_memory": _memory_json(plan),
        "host_memory": _host_json(plan),
        "largest_batch": {length: fit.largest_batch(choice.num_cores, length) for length in _lengths(plan)},
        "decode_upper_bound": [
            _decode_json(roofline, batch, context) for batch in _batches(plan) for context in plan.buckets.decode
        ],
        "first_token_lower_bound": [_prefill_json(roofline, bucket) for bucket in plan.buckets.prefill],
        "estimates": ["core_memory.logits", "core_memory.scratch", "core_memory.reserve", "host_memory"],
    }


def _memory_json(plan: Plan) -> dict[str, int]:
    memory = plan.memory
    return {
        "weights": memory.weights,
        "kv_cache": memory.kv_cache,
        "counts": memory.counts,
        "logits": memory.logits,
        "scratch": memory.scratch,
        "reserve": memory.reserve,
        "total": memory.total,
        "capacity": plan.fit.capacity,
    }


def _host_json(plan: Plan) -> dict[str, int | None]:
    host = plan.host
    return {
        "export": host.export,
        "compile_one": host.compile_one,
        "each_more": host.each_more,
        "load": host.load,
        "parallel_compiles": plan.parallel_compiles,
        "capacity": plan.fit.instance.host_bytes,
    }


def _decode_json(roofline: Roofline, batch: int, context: int) -> dict[str, object]:
    bound = roofline.decode(batch, context)
    speed = batch / bound.seconds
    return {"batch_size": batch, "context": context, "tokens_per_second": speed, "bound_by": bound.limit}


def _prefill_json(roofline: Roofline, bucket: int) -> dict[str, object]:
    bound = roofline.prefill(bucket)
    return {"bucket": bucket, "seconds": bound.seconds, "bound_by": bound.limit}
