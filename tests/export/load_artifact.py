"""Run as a program: load an exported artifact as an engine does, emulated, and say what JAX found compiled.

    python load_artifact.py ARTIFACT

Prints how many programs there are. JAX tells on standard error what it found, or did not find, in its cache.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ranvier.artifacts import open_artifact
from ranvier.compose.neuron import load_neuron_programs
from ranvier.compose.plan import settle_limits
from ranvier.config import load_config


def main(directory: str) -> None:
    artifact = open_artifact(Path(directory))
    config = load_config(["--model-id", directory, "--emulate-neuron"], {"HOME": "/nowhere"}, prog="ranvier serve")
    programs = load_neuron_programs(config, artifact, settle_limits(config, artifact.manifest))
    sys.stdout.write(programs.details["num_programs"] + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
