"""From an artifact's manifest to the options of its programs."""

from __future__ import annotations

from ranvier.artifacts import NeuronManifest
from ranvier.targets.neuron.buckets import Buckets
from ranvier.targets.neuron.runtime import NeuronOptions
from ranvier.targets.neuron.shapes import ComputeType

COMPUTE_TYPES: dict[str, ComputeType] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""By the names of `--auto-cast-type`."""


def options_of(manifest: NeuronManifest) -> NeuronOptions:
    """The options that the artifact's programs were lowered with."""
    buckets = Buckets(prefill=manifest.prefill, chunk=manifest.chunk, decode=manifest.decode, score=manifest.score)
    return NeuronOptions(
        dtype=COMPUTE_TYPES[manifest.auto_cast_type],
        num_cores=manifest.num_cores,
        num_top=manifest.num_top,
        buckets=buckets,
    )
