"""Every option, declared once.

Parser, environment, `--help`, docs and configs are made from these rows. Names, defaults and meanings are those of
TGI's launcher (Text Generation Inference 3.3.6) except in the group `OURS` and where help says so; second variables
such as `HF_MODEL_ID` are those of the SageMaker images.
"""

from __future__ import annotations

from ranvier.config.compatibility import IGNORED_OPTIONS, REFUSED_OPTIONS
from ranvier.config.neuron import BUCKETS, INSTANCE, LNC, NEURON_OPTIONS, in_group
from ranvier.config.option import OURS, U16_MAX, Option
from ranvier.config.telemetry import TELEMETRY_OPTIONS

MODEL = "Model"
LIMITS = "Limits"
PRECISION = "Precision"
SERVER = "Server"
MISC = "Help and diagnosis"
EXPORT = "Export"

_BITSANDBYTES = ("bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")
_GPU_FORMATS = ("awq", "gptq", "exl2", "eetq", "marlin", "fp8", *_BITSANDBYTES, "compressed-tensors")

_MODEL_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--model-id",),
        env=("MODEL_ID", "HF_MODEL_ID"),
        help="Model to serve: an id on the hub, or a local directory. It must be given: TGI's default, "
        "bigscience/bloom-560m, is not served.",
        group=MODEL,
        default_text="must be given",
    ),
    Option(
        flags=("--revision",),
        env=("REVISION", "HF_MODEL_REVISION"),
        help="Branch, tag or commit of the model on the hub.",
        group=MODEL,
        default_text="the hub's main branch",
    ),
    Option(
        flags=("--tokenizer-config-path",),
        help="Alternative tokenizer_config.json, for its chat template.",
        group=MODEL,
        kind="path",
        metavar="PATH",
        default_text="the model's own",
    ),
    Option(
        flags=("--weights-cache-override",),
        help="Directory of the hub cache; stronger than --huggingface-hub-cache. Meant for mounted disks.",
        group=MODEL,
        kind="path",
        metavar="DIRECTORY",
        field="hub_cache",
    ),
    Option(
        flags=("--huggingface-hub-cache",),
        help="Directory of the hub cache.",
        group=MODEL,
        kind="path",
        metavar="DIRECTORY",
        default_text="the hub client's own",
        field="hub_cache",
    ),
    Option(
        flags=("--lora-adapters",),
        help="LoRA adapters to load beside the model: entries NAME=DIRECTORY, NAME=ID, ID or ID@REVISION with an ID on "
        "the hub. Requests choose one by `adapter_id`. May be repeated; commas separate entries.",
        group=MODEL,
        kind="list",
        default=(),
        metavar="ADAPTERS",
    ),
)

_PRECISION_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--quantize",),
        env=("QUANTIZE", "HF_MODEL_QUANTIZE"),
        help="Precision of the weights when it is less than --dtype; auto leaves it to the target. eetq and "
        "bitsandbytes mean int8; awq, gptq, fp8 and compressed-tensors name what a checkpoint is written in already.",
        group=PRECISION,
        kind="choice",
        default="auto",
        choices=("auto", "none", "int8", "int4", *_GPU_FORMATS),
        takes=("auto", "none", "int8", "int4", "eetq", "bitsandbytes", "awq", "gptq", "fp8", "compressed-tensors"),
        metavar="FORMAT",
        refusal="it is made for GPU kernels; `auto`, `none`, `int8` and `int4` work with any model",
    ),
    Option(
        flags=("--dtype",),
        help="Type of activations, and of weights that are not quantized; auto leaves it to the target.",
        group=PRECISION,
        kind="choice",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        takes=("auto", "float32", "bfloat16"),
        refusal="the CPU computes in `float32` or `bfloat16`; give one of these, or `auto`",
    ),
    Option(
        flags=("--kv-cache-dtype",),
        help="Type of the KV cache; auto leaves it to the target.",
        group=PRECISION,
        kind="choice",
        default="auto",
        choices=("auto", "float32", "bfloat16", "u8", "fp8_e4m3fn", "fp8_e5m2"),
        takes=("auto", "float32", "bfloat16", "u8"),
        metavar="DTYPE",
        refusal="the CPU has no 8-bit floats; `u8` is as small, and `auto`, `float32` and `bfloat16` work too",
    ),
)

_LIMIT_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--max-batch-size",),
        env=("MAX_BATCH_SIZE", "HF_BATCH_SIZE"),
        help="Number of slots: requests that are worked on together.",
        group=LIMITS,
        kind="whole",
        minimum=1,
        zero_text="`max_batch_size` must be > 0",
        metavar="NUM_SLOTS",
        default_text="the artifact's",
    ),
    Option(
        flags=("--max-input-tokens",),
        help="Longest prompt in tokens.",
        group=LIMITS,
        kind="whole",
        minimum=1,
        metavar="NUM_TOKENS",
        default_text="from the artifact",
    ),
    Option(
        flags=("--max-input-length",),
        help="Old name of --max-input-tokens. Giving both is an error.",
        group=LIMITS,
        kind="whole",
        minimum=1,
        metavar="NUM_TOKENS",
        field="max_input_tokens",
    ),
    Option(
        flags=("--max-total-tokens",),
        env=("MAX_TOTAL_TOKENS", "HF_SEQUENCE_LENGTH"),
        help="Longest sequence in tokens, prompt and output together.",
        group=LIMITS,
        kind="whole",
        minimum=1,
        metavar="NUM_TOKENS",
        default_text="the artifact's",
    ),
    Option(
        flags=("--max-batch-prefill-tokens",),
        help="Most prompt tokens that one step may prefill.",
        group=LIMITS,
        kind="whole",
        minimum=1,
        metavar="NUM_TOKENS",
        default_text="from the artifact",
    ),
    Option(
        flags=("--max-concurrent-requests",),
        help="Generations admitted at a time, waiting ones included; more are answered with status 429.",
        group=LIMITS,
        kind="whole",
        default=128,
        minimum=1,
        metavar="NUM_REQUESTS",
    ),
    Option(
        flags=("--max-best-of",),
        help="Largest `best_of` of a request.",
        group=LIMITS,
        kind="whole",
        default=2,
        minimum=1,
        metavar="NUM_SEQUENCES",
    ),
    Option(
        flags=("--max-stop-sequences",),
        help="Most stop sequences of a request.",
        group=LIMITS,
        kind="whole",
        default=4,
        metavar="NUM_SEQUENCES",
    ),
    Option(
        flags=("--max-top-n-tokens",),
        help="Largest `top_n_tokens` of a request.",
        group=LIMITS,
        kind="whole",
        default=5,
        metavar="NUM_TOKENS",
    ),
    Option(
        flags=("--max-client-batch-size",),
        help="Most prompts of a completions request.",
        group=LIMITS,
        kind="whole",
        default=4,
        minimum=1,
        metavar="NUM_PROMPTS",
    ),
    Option(
        flags=("--payload-limit",),
        help="Largest body of an HTTP request, in bytes.",
        group=LIMITS,
        kind="whole",
        default=2_000_000,
        minimum=1,
        metavar="NUM_BYTES",
    ),
    Option(
        flags=("--disable-grammar-support",),
        help="Refuse requests with a grammar.",
        group=LIMITS,
        kind="switch",
        default=False,
    ),
)

_SERVER_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--hostname",),
        help="IP address to listen on. Other text, such as the name that containers get, means the default.",
        group=SERVER,
        kind="address",
        default="0.0.0.0",
        metavar="ADDRESS",
        is_lenient=True,
    ),
    Option(
        flags=("--port", "-p"),
        # Only Vertex AI sets the first, and it must win over what an image says.
        env=("AIP_HTTP_PORT", "PORT"),
        help="Port to listen on; 0 takes a free one.",
        group=SERVER,
        kind="whole",
        default=3000,
        maximum=U16_MAX,
    ),
    Option(
        flags=("--validation-workers",),
        help="Threads that tokenize prompts.",
        group=SERVER,
        kind="whole",
        default=2,
        minimum=1,
        zero_text="`validation_workers` must be > 0",
        metavar="NUM_THREADS",
    ),
    Option(
        flags=("--api-key",),
        help="Key that clients send as bearer token. On the command line other users of the machine can see it; "
        "prefer the variable.",
        group=SERVER,
        metavar="KEY",
        default_text="none, open to all",
        is_secret=True,
    ),
    Option(
        flags=("--cors-allow-origin",),
        help="Origin that browsers may call from. May be repeated; commas separate entries.",
        group=SERVER,
        kind="list",
        default=(),
        default_text="any",
        metavar="ORIGIN",
    ),
    Option(
        flags=("--graceful-termination-timeout", "-g"),
        help="Seconds that requests in flight get to finish after a stop signal.",
        group=SERVER,
        kind="whole",
        default=90,
        metavar="SECONDS",
    ),
)

_OUR_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--target",),
        help="What the model is compiled for and runs on; an exported model says so itself. nxd runs what "
        "optimum-neuron exported, or exports a checkpoint as the Neuron Model Cache has it.",
        group=OURS,
        kind="choice",
        default="cpu",
        choices=("cpu", "neuron", "nxd", "scripted"),
        hidden_choices=("scripted",),
    ),
    *NEURON_OPTIONS,
    Option(
        flags=("--num-threads",),
        help="Threads that compute.",
        group=OURS,
        kind="whole",
        minimum=1,
        default_text="all cores available",
    ),
    Option(
        flags=("--sampling-defaults",),
        help="Where sampling parameters come from that a request leaves open: nowhere, as in TGI, or the model's "
        "generation_config.json.",
        group=OURS,
        kind="choice",
        default="none",
        choices=("none", "model"),
    ),
    Option(
        flags=("--engine-python",),
        help="Python interpreter of the engine process, for a target whose libraries do not go with the router's; "
        "Ranvier must be installed there too. Programs beside it, such as optimum-cli, are taken from there.",
        group=OURS,
        kind="path",
        metavar="PATH",
        default_text="the launcher's",
    ),
    Option(
        flags=("--single-process",),
        help="Run router and engine in one process.",
        group=OURS,
        kind="switch",
        default=False,
    ),
    Option(
        flags=("--artifact-cache",),
        env=("RANVIER_CACHE",),
        help="Directory that exported artifacts are kept in.",
        group=OURS,
        kind="path",
        default="~/.cache/ranvier",
        metavar="DIRECTORY",
    ),
)

_MISC_OPTIONS: tuple[Option, ...] = (
    Option(
        flags=("--env", "-e"),
        env=(),
        help="Log versions and hardware, then go on.",
        group=MISC,
        kind="switch",
        default=False,
        field="print_env",
    ),
    Option(flags=("--help", "-h"), env=(), help="Print this help.", group=MISC, kind="switch", default=False),
    Option(flags=("--version", "-V"), env=(), help="Print the version.", group=MISC, kind="switch", default=False),
)

OPTIONS: tuple[Option, ...] = (
    *_MODEL_OPTIONS,
    *_PRECISION_OPTIONS,
    *_LIMIT_OPTIONS,
    *_SERVER_OPTIONS,
    *TELEMETRY_OPTIONS,
    *_OUR_OPTIONS,
    *_MISC_OPTIONS,
    *IGNORED_OPTIONS,
    *REFUSED_OPTIONS,
)
"""The options of the launcher, in the order of help and docs."""


def select(*names: str) -> tuple[Option, ...]:
    """Return the launcher's options with these names (`max_batch_size`), for a command that shares them.

    Raises `KeyError` for a name that is not in the table.
    """
    by_name = {option.name: option for option in OPTIONS}
    return tuple(by_name[name] for name in names)


EXPORT_OPTIONS: tuple[Option, ...] = (
    *select("model_id", "revision"),
    Option(
        flags=("--batch-size", "--batch_size"),
        help="Number of slots of the artifact.",
        group=EXPORT,
        kind="whole",
        minimum=1,
        metavar="NUM_SLOTS",
        default_text="chosen for the target",
    ),
    Option(
        flags=("--sequence-length", "--sequence_length"),
        help="Longest sequence of the artifact in tokens, prompt and output together.",
        group=EXPORT,
        kind="whole",
        minimum=2,
        metavar="NUM_TOKENS",
        default_text="chosen for the model",
    ),
    *select("quantize", "dtype", "kv_cache_dtype", "target"),
    *in_group(EXPORT, *select("num_cores", "auto_cast_type", "emulate_neuron"), INSTANCE, LNC, *BUCKETS),
    *select("help", "version"),
)
"""The options of `ranvier export`, in the order of help and docs."""
