"""The table of options: what it holds, and what is written from it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from ranvier.config import EXPORT_OPTIONS, OPTIONS, ExportConfig, LauncherConfig, Option, Status, options_markdown
from ranvier.config.option import parse_value
from ranvier.config.options import select

WITHOUT_VARIABLE = {"env", "help", "version"}

HONOURED_FLAGS = """
--model-id --revision --tokenizer-config-path --weights-cache-override --huggingface-hub-cache --lora-adapters
--quantize --dtype --kv-cache-dtype
--max-batch-size --max-input-tokens --max-input-length --max-total-tokens --max-batch-prefill-tokens
--max-concurrent-requests --max-best-of --max-stop-sequences --max-top-n-tokens --max-client-batch-size
--payload-limit --disable-grammar-support
--hostname --port -p --validation-workers --api-key --cors-allow-origin --graceful-termination-timeout -g
--json-output --log-level --log-colorize --log-prompts --otlp-endpoint --otlp-service-name
--target --num-cores --auto-cast-type --emulate-neuron --num-threads --sampling-defaults --engine-python
--single-process --artifact-cache --env -e --help -h --version -V
""".split()

IGNORED_FLAGS = """
--num-shard --sharded --waiting-served-ratio --max-waiting-tokens --max-batch-total-tokens --cuda-graphs
--prometheus-port --shard-uds-path --master-addr --master-port --disable-custom-kernels --cuda-memory-fraction
--usage-stats --enable-prefill-logprobs --watermark-gamma --watermark-delta
""".split()

REFUSED_FLAGS = """
--trust-remote-code --speculate --rope-scaling --rope-factor
--ngrok --ngrok-authtoken --ngrok-edge
""".split()

EXPORT_FLAGS = """
--model-id --revision --batch-size --batch_size --sequence-length --sequence_length
--quantize --dtype --kv-cache-dtype --target --num-cores --num_cores --auto-cast-type --auto_cast_type
--emulate-neuron --emulate_neuron --instance --lnc --prefill-buckets --prefill_buckets --chunk-buckets --chunk_buckets
--decode-buckets --decode_buckets --help -h --version -V
""".split()

each_option = pytest.mark.parametrize("option", {*OPTIONS, *EXPORT_OPTIONS}, ids=lambda option: str(option.name))


def flags_of(status: Status) -> list[str]:
    return [flag for option in OPTIONS if option.status is status for flag in option.flags]


def test_the_set_of_flags_is_frozen() -> None:
    assert flags_of(Status.HONOURED) == HONOURED_FLAGS
    assert flags_of(Status.IGNORED) == IGNORED_FLAGS
    assert flags_of(Status.REFUSED) == REFUSED_FLAGS
    assert [flag for option in EXPORT_OPTIONS for flag in option.flags] == EXPORT_FLAGS


@pytest.mark.parametrize("options", [OPTIONS, EXPORT_OPTIONS], ids=["launcher", "export"])
def test_no_flag_name_or_variable_belongs_to_two_options(options: tuple[Option, ...]) -> None:
    flags = [flag for option in options for flag in option.flags]
    variables = [variable for option in options for variable in option.variables]
    names = [option.name for option in options]
    for spellings in (flags, variables, names):
        assert len(set(spellings)) == len(spellings)


@each_option
def test_every_option_has_help_and_a_variable(option: Option) -> None:
    assert re.fullmatch(r"[A-Z].*\.", option.help)
    assert bool(option.variables) == (option.name not in WITHOUT_VARIABLE)
    assert bool(option.group) == (option.status is Status.HONOURED)


@each_option
def test_every_option_without_effect_or_refused_says_why(option: Option) -> None:
    assert bool(option.no_effect) == (option.status is Status.IGNORED)
    assert bool(option.refusal) == (option.status is Status.REFUSED or bool(option.takes))


@each_option
def test_every_default_is_a_value_that_the_option_takes(option: Option) -> None:
    if option.kind == "switch":
        assert option.default is False
    elif option.default not in (None, ()):
        assert parse_value(option, str(option.default)) == option.default
    assert not option.takes or option.default is None or option.default in option.takes


@each_option
def test_every_choice_is_written_in_lower_case_and_what_is_taken_is_one_of_them(option: Option) -> None:
    assert bool(option.choices) == (option.kind == "choice")
    assert [choice.lower() for choice in option.choices] == list(option.choices)
    if option.kind == "choice":
        assert {*option.takes, *option.hidden_choices} <= {*option.choices}
    assert {choice for _, choice in option.synonyms} <= {*option.choices}
    assert all(text.islower() and text not in option.choices for text, _ in option.synonyms)


def test_a_variable_is_the_flag_in_upper_case_unless_the_row_says_otherwise() -> None:
    other = {option.name: option.variables for option in OPTIONS if option.variables != (option.name.upper(),)}
    assert other == {
        "model_id": ("MODEL_ID", "HF_MODEL_ID"),
        "revision": ("REVISION", "HF_MODEL_REVISION"),
        "quantize": ("QUANTIZE", "HF_MODEL_QUANTIZE"),
        "port": ("AIP_HTTP_PORT", "PORT"),
        "artifact_cache": ("RANVIER_CACHE",),
        "max_batch_size": ("MAX_BATCH_SIZE", "HF_BATCH_SIZE"),
        "max_total_tokens": ("MAX_TOTAL_TOKENS", "HF_SEQUENCE_LENGTH"),
        "num_cores": ("HF_NUM_CORES",),
        "auto_cast_type": ("HF_AUTO_CAST_TYPE",),
        "env": (),
        "help": (),
        "version": (),
        "num_shard": ("NUM_SHARD", "SM_NUM_GPUS"),
        "trust_remote_code": ("TRUST_REMOTE_CODE", "HF_MODEL_TRUST_REMOTE_CODE"),
    }


@pytest.mark.parametrize(
    ("config", "options", "own_fields"),
    [
        (LauncherConfig, OPTIONS, {"sources", "warnings"}),
        (ExportConfig, EXPORT_OPTIONS, {"sources", "warnings", "output"}),
    ],
)
def test_every_honoured_option_has_a_field_and_every_field_an_option(
    config: type[LauncherConfig] | type[ExportConfig], options: tuple[Option, ...], own_fields: set[str]
) -> None:
    honoured = {option.field_name for option in options if option.status is Status.HONOURED}
    assert {each.name for each in dataclasses.fields(config)} == (honoured - {"help", "version"}) | own_fields


def test_only_options_of_the_table_can_be_shared() -> None:
    assert [option.name for option in select("port", "dtype")] == ["port", "dtype"]
    with pytest.raises(KeyError, match="'no_such_option'"):
        select("no_such_option")


def test_the_page_of_options_has_one_row_for_each_option() -> None:
    rows = [line for line in options_markdown().splitlines() if line.startswith("| `-")]
    assert len(rows) == len(OPTIONS) + len(EXPORT_OPTIONS)
    for option, row in zip((*OPTIONS, *EXPORT_OPTIONS), rows, strict=True):
        assert row.startswith(f"| `{option.flags[0]}`")
        assert option.help in row
        assert row.replace("\\|", "").count("|") == 6


def test_the_page_of_options_shows_flags_variables_defaults_and_reasons() -> None:
    lines = options_markdown().splitlines()
    assert lines[:4] == [
        "# Options",
        "",
        "A flag is stronger than its environment variable, and that is stronger than the default.",
        "As a variable, a switch is `true` or `false`.",
    ]
    assert (
        "| `--port`, `-p` | `AIP_HTTP_PORT`, `PORT` | 3000 | a whole number from 0 to 65535 "
        "| Port to listen on; 0 takes a free one. |" in lines
    )
    assert "| `--env`, `-e` | – | false | – | Log versions and hardware, then go on. |" in lines
    assert (
        "| `--cuda-graphs` | `CUDA_GRAPHS` | – | a comma-separated list of one entry or more "
        "| Batch sizes that get a CUDA graph. (there is no CUDA device) |" in lines
    )
    assert [line for line in lines if line.startswith("## ")] == [
        "## Model",
        "## Precision",
        "## Limits",
        "## Server",
        "## Logs and traces",
        "## Not in TGI",
        "## Help and diagnosis",
        "## Known from TGI, accepted without effect",
        "## Known from TGI, refused",
        "## `ranvier export`",
    ]


def test_importing_the_config_loads_nothing_but_the_standard_library_and_the_exceptions() -> None:
    """A launcher's `--help` has to answer at once, so none of numpy, openvino, starlette, tokenizers may come along."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import ranvier.config\n"
        "print(*sorted(name for name in set(sys.modules) - before"
        " if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert [name for name in loaded if not name.startswith("ranvier.config")] == ["ranvier", "ranvier.errors"]
    assert "ranvier.config.options" in loaded
