"""Run as a program with forced host devices: each program as it is traced, and as it is stored.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python THIS FOLDER CASE DTYPE CORES NAME...

Prints a line of JSON for each program but those named. Both get the same random weights, state and inputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from neuron_helpers import few_buckets, jax, limits  # found through the line above

from ranvier.core import SamplingParams, SamplingRow
from ranvier.models import spec_of
from ranvier.targets.neuron import NeuronOptions, shapes_of
from ranvier.targets.neuron.programs import Program, ProgramSet
from ranvier.targets.neuron.sampling import packed_mask, packed_rows
from ranvier.targets.neuron.shapes import ComputeType, Shapes
from ranvier.targets.neuron.stored import StoredPrograms, write_program
from tiny_families import IDS, VOCAB, config

ROWS = (
    SamplingParams(do_sample=True, temperature=0.9, top_k=9, top_p=0.8, typical_p=0.9, seed=3, presence_penalty=0.4),
    SamplingParams(top_n_tokens=2),
    SamplingParams(repetition_penalty=1.3, frequency_penalty=0.2),
)


def drawn(of: Any, device: jax.Device) -> Any:
    """Random arrays in place of abstract ones, the same at each call."""
    random = np.random.default_rng(3)

    def draw(leaf: Any) -> Any:
        values = random.standard_normal(leaf.shape).astype(np.float32) / 4
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding or device)

    return jax.tree.map(draw, of)


def rows(shapes: Shapes, number: int, *, has_mask: bool) -> tuple[Any, ...]:
    allowed = np.packbits(np.arange(-(-VOCAB // 8) * 8) % 3 > 0, bitorder="little").tobytes()
    given = [
        (index, SamplingRow(ROWS[index % len(ROWS)], 4, IDS[:9], allowed if index % 2 else None))
        for index in range(number)
    ]
    packed = packed_rows(given, number)
    return (*packed, packed_mask(given, number, shapes.mask_words)) if has_mask else packed


def inputs(program: Program, shapes: Shapes) -> tuple[Any, ...]:
    """What a call brings along, so that every branch has something to do."""
    kind, _, bucket = program.name.partition("_")
    slots, ids = shapes.num_slots, np.array(IDS, np.int32)
    tokens = np.stack([ids[:slots], 40 + np.arange(slots), np.arange(slots) % 3 > 0], axis=1).astype(np.int32)
    random = np.random.default_rng(5)
    hidden = [random.standard_normal(each.shape).astype(each.dtype) for each in program.inputs if len(each.shape) == 2]
    if kind in ("prefill", "chunk", "score"):
        size = int(bucket)
        place = np.array([1, 0 if kind == "prefill" else 32, 0, 20], np.int32)
        return (ids[:size], place, ids[1 : size + 1])[: len(program.inputs)]
    return {
        f"decode_{bucket}": lambda: (tokens,),
        "choose": lambda: (hidden[0], tokens, *rows(shapes, slots, has_mask=False)),
        "choose_masked": lambda: (hidden[0], tokens, *rows(shapes, slots, has_mask=True)),
        "choose_greedy": lambda: (hidden[0],),
        "choose_first": lambda: (hidden[0], np.int32(2), *rows(shapes, 1, has_mask=True)),
        "share": lambda: (np.int32(1), np.int32(3), np.int32(32)),
        "clear": lambda: (np.int32(2),),
        "set_counts": lambda: (np.int32(1), random.standard_normal(shapes.vocab_size).astype(np.float32)),
    }[program.name]()


def called(program: Program, shapes: Shapes, device: jax.Device) -> tuple[list[jax.Array], list[bool], str]:
    """Results, which leaves of the state are gone afterwards, and the first line of what was compiled."""
    held = [drawn(program.arguments[index], device) for index in range(len(program.held))]
    compiled = program.function.lower(*program.arguments).compile()
    results = jax.tree.leaves(compiled(*held, *inputs(program, shapes)))
    return results, [leaf.is_deleted() for leaf in jax.tree.leaves(held[-1])], compiled.as_text().partition("\n")[0]


def is_same(found: jax.Array, expected: jax.Array) -> bool:
    """Whether type, bits and placement are."""
    is_there = found.sharding.is_equivalent_to(expected.sharding, expected.ndim)
    return is_there and found.dtype == expected.dtype and np.asarray(found).tobytes() == np.asarray(expected).tobytes()


def compared(plain: Program, stored: Program, shapes: Shapes, device: jax.Device) -> dict[str, Any]:
    """What there is to say about one program."""
    (expected, _, _), (found, gone, head) = called(plain, shapes, device), called(stored, shapes, device)
    return {
        "name": plain.name,
        "different": [index for index, pair in enumerate(zip(found, expected, strict=True)) if not is_same(*pair)],
        "num_results": len(found),
        "has_state": plain.has_state,
        "gone": gone,
        "aliased": head.count("may-alias") + head.count("must-alias"),
    }


def main(folder: str, case: str, dtype: ComputeType, cores: str, *left_out: str) -> None:
    options = NeuronOptions(dtype=dtype, num_cores=int(cores), num_top=2, buckets=few_buckets())
    spec, devices = spec_of(config(case)), jax.devices()
    lowered = ProgramSet(shapes_of(spec, limits(), options))
    names = [name for name in lowered.names if name not in left_out]
    for name in names:
        write_program(lowered.named(name), Path(folder))
    shapes = shapes_of(spec, limits(), options, devices)
    plain, stored = ProgramSet(shapes), ProgramSet(shapes, StoredPrograms(Path(folder), devices[0]).function)
    for name in names:
        line = compared(plain.named(name), stored.named(name), shapes, devices[0])
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # words of the command line
