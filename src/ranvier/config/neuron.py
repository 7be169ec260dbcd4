"""Options of the Neuron target, shared by the commands that serve, export and plan."""

from __future__ import annotations

from dataclasses import replace

from ranvier.config.option import OURS, Option

NUM_CORES = Option(
    flags=("--num-cores",),
    env=("HF_NUM_CORES",),
    help="NeuronCores that one engine uses; of targets neuron and nxd.",
    group=OURS,
    kind="whole",
    minimum=1,
    default_text="the artifact's; for a new one, what `ranvier plan` chooses on a Neuron instance, else 1",
)
AUTO_CAST_TYPE = Option(
    flags=("--auto-cast-type",),
    env=("HF_AUTO_CAST_TYPE",),
    help="Type of weights, activations and KV cache; of targets neuron and nxd. The longer names bfloat16, float16 and "
    "float32 are understood too.",
    group=OURS,
    kind="choice",
    choices=("bf16", "fp16", "fp32"),
    synonyms=(("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32")),
    metavar="TYPE",
    default_text="the artifact's; for a new one, bf16, or what --dtype says",
)
EMULATE_NEURON = Option(
    flags=("--emulate-neuron",),
    help="Run target neuron or nxd on this machine's processor, without a Neuron device; slow, for trying it out.",
    group=OURS,
    kind="switch",
    default=False,
)
INSTANCE = Option(
    flags=("--instance",),
    env=("RANVIER_INSTANCE",),
    help="EC2 instance type to plan for, such as inf2.xlarge.",
    group=OURS,
    metavar="TYPE",
    default_text="this host's",
)
LNC = Option(
    flags=("--lnc",),
    env=("NEURON_LOGICAL_NC_CONFIG",),
    help="Physical cores that are used as one.",
    group=OURS,
    kind="whole",
    minimum=1,
    maximum=2,
    default_text="the chip's: 2 on Trainium2 and Trainium3, else 1",
)


def _buckets(name: str, what: str) -> Option:
    return Option(
        flags=(f"--{name}-buckets",),
        help=f"Lengths in tokens, ascending, of the programs {what}; of target neuron.",
        group=OURS,
        kind="list",
        default=(),
        metavar="TOKENS",
        default_text="powers of two from 128 on",
    )


BUCKETS = (
    _buckets("prefill", "for whole prompts"),
    _buckets("chunk", "for parts of prompts"),
    _buckets("decode", "that decode over so much of the KV cache"),
)

NEURON_TARGETS = ("neuron", "nxd")
"""Targets that run on Neuron devices."""

NEURON_OPTIONS: tuple[Option, ...] = (NUM_CORES, AUTO_CAST_TYPE, EMULATE_NEURON)
"""Those of the launcher."""


def in_group(group: str, *options: Option) -> tuple[Option, ...]:
    """The same options under another heading, with the spelling of optimum-neuron (`--num_cores`) beside ours."""
    return tuple(replace(option, group=group, flags=_spellings(option.flags[0])) for option in options)


def _spellings(flag: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((flag, "--" + flag[2:].replace("-", "_"))))
