"""What the targets honour, for documents."""

from __future__ import annotations

from ranvier.targets.scripted import ScriptedPrograms


def target_parameters() -> dict[str, frozenset[str]]:
    """Names of the parameters that each target honours, by target."""
    # OpenVINO is imported only where the document is written.
    from ranvier.targets.cpu.programs import CAPABILITIES

    scripted = ScriptedPrograms(num_slots=1, sequence_length=1).capabilities
    return {"cpu": CAPABILITIES.parameters, "scripted": scripted.parameters}
