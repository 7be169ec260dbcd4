"""Options of the Neuron target."""

from __future__ import annotations

from ranvier.config.option import Option

GROUP = "Not in TGI"

NEURON_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--num-cores",),
        env=("HF_NUM_CORES",),
        help="NeuronCores that the model is spread over; of target neuron.",
        group=GROUP,
        kind="whole",
        minimum=1,
        default=1,
    ),
    Option(
        flags=("--emulate-neuron",),
        help="Run target neuron on this machine's processor, without a Neuron device; slow, for trying it out.",
        group=GROUP,
        kind="switch",
        default=False,
    ),
)
