"""Artifacts of optimum-neuron 0.4.x, and a stand-in for them on the CPU."""

from ranvier.targets.nxd.cores import CoreRegistry
from ranvier.targets.nxd.fake import FakeNxdModel
from ranvier.targets.nxd.model import NxdModel, NxdShape, shape_of
from ranvier.targets.nxd.optimum import load_optimum
from ranvier.targets.nxd.programs import NxdPrograms, capabilities_of
from ranvier.targets.nxd.versions import CONTAINER, PINS, artifact_versions, check_versions, installed_versions

__all__ = [
    "CONTAINER",
    "PINS",
    "CoreRegistry",
    "FakeNxdModel",
    "NxdModel",
    "NxdPrograms",
    "NxdShape",
    "artifact_versions",
    "capabilities_of",
    "check_versions",
    "installed_versions",
    "load_optimum",
    "shape_of",
]
