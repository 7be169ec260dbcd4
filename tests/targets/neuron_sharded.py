"""Run as a program with several forced host devices: what a decoder gives on one core and on many.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python neuron_sharded.py FOLDER CASE CORES...

Prints a line of JSON for each number of cores: greedy and sampled tokens, log-probabilities, scores, placements.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from neuron_helpers import few_buckets, jax, limits  # found through the line above

from ranvier.core import Chunk, PrefixShare, SamplingParams, SamplingRow, StepPlan
from ranvier.models import spec_of
from ranvier.targets.neuron import NeuronOptions, NeuronPrograms, load_neuron
from tiny_families import IDS, config

GREEDY = SamplingParams(top_n_tokens=2)
SAMPLED = SamplingParams(do_sample=True, temperature=1.2, top_k=40, top_p=0.9, seed=5, frequency_penalty=0.5)


def generated(programs: NeuronPrograms) -> dict[str, Any]:
    """Two requests side by side, the second behind a prefix of the first; scores of the first's prompt."""
    scored = Chunk(0, IDS[:40], 0, True, IDS[1:40])
    first = programs.run(StepPlan((scored,), (), (SamplingRow(GREEDY, 0, IDS[:40]),)))
    behind = Chunk(3, IDS[32:50], 32, True)
    share = PrefixShare(0, 3, 32)
    second = programs.run(StepPlan((behind,), (share,), (SamplingRow(SAMPLED, 0, IDS[:50]),)))
    histories = {0: list(IDS[:40]), 3: list(IDS[:50])}
    found: dict[str, Any] = {"tokens": [], "logprobs": [], "scores": list(first.scores[0])}
    choices = [first.choices[0], second.choices[0]]
    for number in range(1, 9):
        for history, choice in zip(histories.values(), choices, strict=True):
            assert choice is not None
            history.append(choice.token_id)
            found["tokens"].append(choice.token_id)
            found["logprobs"] += [choice.logprob, *(entry.logprob for entry in choice.top)]
        chunks = tuple(Chunk(slot, ids[-1:], len(ids) - 1, True) for slot, ids in histories.items())
        rows = tuple(
            SamplingRow(params, number, ids) for params, ids in zip((GREEDY, SAMPLED), histories.values(), strict=True)
        )
        choices = list(programs.run(StepPlan(chunks, (), rows)).choices)
    programs.check()
    return found


def num_exported_cores(programs: NeuronPrograms) -> int:
    """For how many cores a decode is exported; its cache comes back in its own memory on all of them."""
    program = programs._programs.named("decode_96")
    exported = jax.export.export(program.function, platforms=["neuron"])(*program.arguments)
    assert exported.mlir_module().count("tf.aliasing_output") == len(jax.tree.leaves(program.arguments[1]))
    return int(exported.nr_devices)


def main(folder: str, case: str, *cores: str) -> None:
    """One line for each number of cores."""
    for count in map(int, cores):
        options = NeuronOptions(dtype="float32", num_cores=count, num_top=2, buckets=few_buckets())
        programs = load_neuron(spec_of(config(case)), Path(folder) / "packed", limits(), options)
        cache = jax.tree.leaves(programs._held["caches"])[0]
        placed: dict[str, Any] = {
            "spread": programs.details["spread"],
            "heads_on_a_core": cache.addressable_shards[0].data.shape[1],
        }
        placed["exported_for"] = num_exported_cores(programs)
        sys.stdout.write(json.dumps(placed | generated(programs)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
