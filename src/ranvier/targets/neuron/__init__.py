"""The Neuron target: one JAX decoder in static shapes, for every platform that JAX has."""

from ranvier.targets.neuron.buckets import Buckets, default_buckets
from ranvier.targets.neuron.programs import Program, ProgramSet
from ranvier.targets.neuron.runtime import NeuronOptions, NeuronPrograms, load_artifact, load_neuron, shapes_of
from ranvier.targets.neuron.shapes import Shapes

__all__ = [
    "Buckets",
    "NeuronOptions",
    "NeuronPrograms",
    "Program",
    "ProgramSet",
    "Shapes",
    "default_buckets",
    "load_artifact",
    "load_neuron",
    "shapes_of",
]
