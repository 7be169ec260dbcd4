"""Options that are known so that TGI's command lines keep working: they have no effect here, or are refused."""

from __future__ import annotations

import math

from ranvier.config.option import U16_MAX, Option, Status

_SLOT_JOINS = "a waiting request joins as soon as a slot is free"
_NO_TORCH = "engines do not use torch's distributed package"
_ROPE = "rotary scaling is part of the model; set `rope_scaling` in the model's `config.json` instead"
_NGROK = "no tunnels are opened; run a tunnel or a reverse proxy in front of `--port` instead"

IGNORED_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--num-shard",),
        env=("NUM_SHARD", "SM_NUM_GPUS"),
        help="Number of devices one model is split over.",
        kind="whole",
        minimum=1,
        takes=(1,),
        status=Status.IGNORED,
        no_effect="a model always runs on one device",
        refusal="a model is not split over devices; run one launcher per replica behind a load balancer instead, "
        "and on Neuron devices give `--num-cores`",
    ),
    Option(
        flags=("--sharded",),
        help="Whether the model is split over devices.",
        kind="choice",
        choices=("true", "false"),
        takes=("false",),
        status=Status.IGNORED,
        no_effect="a model always runs on one device",
        refusal="a model is not split over devices; leave the option out or give `false`",
    ),
    Option(
        flags=("--waiting-served-ratio",),
        help="Waiting requests per running request before they join.",
        kind="decimal",
        maximum=math.inf,
        status=Status.IGNORED,
        no_effect=f"{_SLOT_JOINS}, whatever the ratio",
    ),
    Option(
        flags=("--max-waiting-tokens",),
        help="Steps after which waiting requests join in any case.",
        kind="whole",
        status=Status.IGNORED,
        no_effect=f"{_SLOT_JOINS}, without counting steps",
    ),
    Option(
        flags=("--max-batch-total-tokens",),
        help="Token budget of a batch. Must not be below `--max-total-tokens` and `--max-batch-prefill-tokens`.",
        kind="whole",
        minimum=1,
        status=Status.IGNORED,
        no_effect="the budget is `max_batch_size` x `max_total_tokens`, claimed once at start-up",
    ),
    Option(
        flags=("--cuda-graphs",),
        help="Batch sizes that get a CUDA graph.",
        kind="list",
        status=Status.IGNORED,
        no_effect="there is no CUDA device",
    ),
    Option(
        flags=("--prometheus-port",),
        help="Port of the metrics.",
        kind="whole",
        maximum=U16_MAX,
        metavar="PORT",
        status=Status.IGNORED,
        no_effect="metrics are at `/metrics` on the port of `--port`",
    ),
    Option(
        flags=("--shard-uds-path",),
        help="Prefix of the sockets between the processes.",
        metavar="PATH",
        status=Status.IGNORED,
        no_effect="the launcher makes a private socket for each engine",
    ),
    Option(
        flags=("--master-addr",),
        help="Address for torch's distributed package.",
        metavar="ADDRESS",
        status=Status.IGNORED,
        no_effect=_NO_TORCH,
    ),
    Option(
        flags=("--master-port",),
        help="Port for torch's distributed package.",
        kind="whole",
        maximum=U16_MAX,
        metavar="PORT",
        status=Status.IGNORED,
        no_effect=_NO_TORCH,
    ),
    Option(
        flags=("--disable-custom-kernels",),
        help="Do without custom CUDA kernels.",
        kind="switch",
        default=False,
        status=Status.IGNORED,
        no_effect="there are no CUDA kernels",
    ),
    Option(
        flags=("--cuda-memory-fraction",),
        help="Share of the GPU memory to use.",
        kind="decimal",
        maximum=1,
        metavar="FRACTION",
        status=Status.IGNORED,
        no_effect="KV memory is claimed once, for `max_batch_size` x `max_total_tokens` tokens",
    ),
    Option(
        flags=("--usage-stats",),
        help="What is told to the makers of TGI.",
        kind="choice",
        choices=("on", "off", "no-stack"),
        status=Status.IGNORED,
        no_effect="nothing is ever sent, whatever the value",
    ),
    Option(
        flags=("--enable-prefill-logprobs",),
        help="Allow requests to ask for logprobs of the prompt.",
        kind="switch",
        default=False,
        status=Status.IGNORED,
        no_effect="what the target can report needs no enabling; the request's `decoder_input_details` decides",
    ),
    Option(
        flags=("--watermark-gamma",),
        help="Share of the vocabulary that a watermark favours.",
        kind="decimal",
        minimum=-math.inf,
        maximum=math.inf,
        metavar="GAMMA",
        status=Status.IGNORED,
        no_effect="no target can watermark",
    ),
    Option(
        flags=("--watermark-delta",),
        help="Strength of a watermark.",
        kind="decimal",
        minimum=-math.inf,
        maximum=math.inf,
        metavar="DELTA",
        status=Status.IGNORED,
        no_effect="no target can watermark",
    ),
)

REFUSED_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--trust-remote-code",),
        env=("TRUST_REMOTE_CODE", "HF_MODEL_TRUST_REMOTE_CODE"),
        help="Run Python code from the model's repository.",
        kind="switch",
        default=False,
        status=Status.REFUSED,
        refusal="code from a model's repository is never run; leave the option out, supported models do not need it",
    ),
    Option(
        flags=("--speculate",),
        help="Number of tokens to guess ahead. 0 is accepted.",
        kind="whole",
        takes=(0,),
        metavar="NUM_TOKENS",
        status=Status.REFUSED,
        refusal="speculation is not available; leave the option out or give `0`",
    ),
    Option(
        flags=("--rope-scaling",),
        help="Way of scaling rotary embeddings.",
        kind="choice",
        choices=("linear", "dynamic"),
        status=Status.REFUSED,
        refusal=_ROPE,
    ),
    Option(
        flags=("--rope-factor",),
        help="Factor of scaling rotary embeddings.",
        kind="decimal",
        maximum=math.inf,
        metavar="FACTOR",
        status=Status.REFUSED,
        refusal=_ROPE,
    ),
    Option(
        flags=("--ngrok",),
        help="Open a tunnel to the server.",
        kind="switch",
        default=False,
        status=Status.REFUSED,
        refusal=_NGROK,
    ),
    Option(
        flags=("--ngrok-authtoken",),
        help="Token of the tunnel.",
        metavar="TOKEN",
        status=Status.REFUSED,
        refusal=_NGROK,
        is_secret=True,
    ),
    Option(
        flags=("--ngrok-edge",),
        help="Edge of the tunnel.",
        metavar="EDGE",
        status=Status.REFUSED,
        refusal=_NGROK,
    ),
)
