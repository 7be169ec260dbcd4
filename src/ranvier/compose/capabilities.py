"""What the targets honour, for documents."""

from __future__ import annotations

from ranvier.core import ALL_PARAMETERS
from ranvier.targets.nxd import NxdShape, capabilities_of
from ranvier.targets.scripted import ScriptedPrograms

_HOST = NxdShape(batch_size=1, sequence_length=2, max_context_length=2, vocab_size=1)
_DEVICE = NxdShape(batch_size=1, sequence_length=2, max_context_length=2, vocab_size=1, on_device_sampling=True)


def target_parameters() -> dict[str, frozenset[str]]:
    """Names of the parameters that each target honours, by target."""
    # OpenVINO is imported only where the document is written.
    from ranvier.targets.cpu.programs import CAPABILITIES

    scripted = ScriptedPrograms(num_slots=1, sequence_length=1).capabilities
    return {
        "cpu": CAPABILITIES.parameters,
        # Said without its library, which not every machine has.
        "neuron": ALL_PARAMETERS,
        "nxd (logits)": capabilities_of(_HOST).parameters,
        "nxd (samples on device)": capabilities_of(_DEVICE).parameters,
        "scripted": scripted.parameters,
    }
