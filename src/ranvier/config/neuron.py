"""Options of the Neuron target."""

from __future__ import annotations

from ranvier.config.option import OURS, Option

NEURON_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--num-cores",),
        env=("HF_NUM_CORES",),
        help="NeuronCores that one engine uses; of target neuron.",
        group=OURS,
        kind="whole",
        minimum=1,
        default_text="1 to serve; `ranvier plan` chooses for the model",
    ),
    Option(
        flags=("--emulate-neuron",),
        help="Run target neuron on this machine's processor, without a Neuron device; slow, for trying it out.",
        group=OURS,
        kind="switch",
        default=False,
    ),
)
