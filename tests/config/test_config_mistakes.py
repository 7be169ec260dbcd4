"""What cannot be read, has no effect or is refused: the message for each."""

from __future__ import annotations

import pytest

from ranvier.config import LauncherConfig, load_config
from ranvier.config.reading import UsageError
from ranvier.errors import OptionError

PROG = "text-generation-launcher"
USAGE = f"\n\nUsage: {PROG} [OPTIONS]\nFor every option: {PROG} --help\n"


def load(*argv: str, **environ: str) -> LauncherConfig:
    return load_config(argv, environ, prog=PROG)


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Load, expect exit code 2, and return the message without its frame."""
    with pytest.raises(SystemExit) as exit_info:
        load(*argv)
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.endswith(USAGE)
    return captured.err.removeprefix("error: ").removesuffix(USAGE)


def option_error(*argv: str, **environ: str) -> str:
    with pytest.raises(OptionError) as error_info:
        load(*argv, **environ)
    assert not isinstance(error_info.value, UsageError)
    return str(error_info.value)


# Mistakes in flags: exit code 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-input-token", "5"], "unknown flag `--max-input-token`; did you mean `--max-input-tokens`?"),
        (["--modelid=secret"], "unknown flag `--modelid`; did you mean `--model-id`?"),
        (["-port", "80"], "unknown flag `-port`; did you mean `--port`?"),
        (["--zzz"], "unknown flag `--zzz`"),
        (["-z"], "unknown flag `-z`"),
        (["-5"], "unexpected argument `-5`; options begin with `--`"),
        (["model"], "unexpected argument `model`; options begin with `--`"),
        (["--json-output", "serve"], "unexpected argument `serve`; options begin with `--`"),
        (["--json-output=true"], "flag `--json-output` takes no value. Given: `true`"),
        (["--port=80", "-p", "81"], "flag `-p` is given more than once; give it once"),
        (
            ["--port"],
            "flag `--port` needs a value: a whole number from 0 to 65535. "
            "A value that begins with a dash is joined to its flag with `=`",
        ),
        (
            ["--api-key", "--json-output"],
            "flag `--api-key` needs a value: text that is not empty. "
            "A value that begins with a dash is joined to its flag with `=`",
        ),
        (["--port", "eighty"], "flag `--port` must be a whole number from 0 to 65535. Given: `eighty`"),
        (["--port", "65536"], "flag `--port` must be a whole number from 0 to 65535. Given: `65536`"),
        (["-p", "8_0"], "flag `-p` must be a whole number from 0 to 65535. Given: `8_0`"),
        (["--max-best-of", "0"], "flag `--max-best-of` must be a whole number from 1 to 4294967295. Given: `0`"),
        (
            ["--max-best-of", "9" * 5000],
            f"flag `--max-best-of` must be a whole number from 1 to 4294967295. Given: `{'9' * 5000}`",
        ),
        (["--dtype", "float64"], "flag `--dtype` must be one of `auto`, `float32`, `bfloat16`. Given: `float64`"),
        (["--target", "gpu"], "flag `--target` must be one of `cpu`, `neuron`, `nxd`. Given: `gpu`"),
        (
            ["--cors-allow-origin", " , "],
            "flag `--cors-allow-origin` must be a comma-separated list of one entry or more. Given: ` , `",
        ),
        (["--artifact-cache="], "flag `--artifact-cache` must be a path that is not empty. Given: ``"),
        (["--api-key="], "flag `--api-key` must be text that is not empty. Given: ``"),
        (["--api-key", "  "], "flag `--api-key` must be text that is not empty. Given: `***`"),
        (["--cuda-memory-fraction", "2"], "flag `--cuda-memory-fraction` must be a number from 0 to 1. Given: `2`"),
        (
            ["--waiting-served-ratio", "nan"],
            "flag `--waiting-served-ratio` must be a number of 0 or more. Given: `nan`",
        ),
        (
            ["--waiting-served-ratio", "1e999"],
            "flag `--waiting-served-ratio` must be a number of 0 or more. Given: `1e999`",
        ),
        (["--watermark-gamma", "half"], "flag `--watermark-gamma` must be a number. Given: `half`"),
        (["--num-shard", "0"], "flag `--num-shard` must be a whole number from 1 to 4294967295. Given: `0`"),
    ],
)
def test_a_mistake_in_a_flag_prints_usage_and_exits_with_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage_error(capsys, *argv) == message


# Mistakes in variables: OptionError


@pytest.mark.parametrize("text", ["1", "yes", "", "True", "FALSE", " true"])
def test_the_variable_of_a_switch_is_exactly_true_or_false(text: str) -> None:
    message = option_error(JSON_OUTPUT=text)
    assert message == f"environment variable `JSON_OUTPUT` must be `true` or `false`. Given: `{text}`"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PORT": ""}, "environment variable `PORT` must be a whole number from 0 to 65535. Given: ``"),
        ({"MODEL_ID": ""}, "environment variable `MODEL_ID` must be text that is not empty. Given: ``"),
        ({"API_KEY": ""}, "environment variable `API_KEY` must be text that is not empty. Given: ``"),
        ({"NGROK": "1"}, "environment variable `NGROK` must be `true` or `false`. Given: `1`"),
        (
            {"USAGE_STATS": "no"},
            "environment variable `USAGE_STATS` must be one of `on`, `off`, `no-stack`. Given: `no`",
        ),
        (
            {"HF_MODEL_QUANTIZE": "int2"},
            "environment variable `HF_MODEL_QUANTIZE` must be one of `auto`, `none`, `int8`, `int4`, `eetq`, "
            "`bitsandbytes`, `awq`, `gptq`, `fp8`, `compressed-tensors`. Given: `int2`",
        ),
    ],
)
def test_a_mistake_in_a_variable_is_an_option_error_that_names_it(environ: dict[str, str], message: str) -> None:
    assert option_error(**environ) == message


def test_options_without_a_variable_do_not_listen_to_one() -> None:
    config = load(ENV="production", HELP="true", VERSION="3.3.6")
    assert not config.print_env


# Without effect


@pytest.mark.parametrize(
    ("flag", "text", "reason"),
    [
        ("--num-shard", "1", "a model always runs on one device"),
        ("--sharded", "false", "a model always runs on one device"),
        ("--waiting-served-ratio", "1.2", "a waiting request joins as soon as a slot is free, whatever the ratio"),
        ("--max-waiting-tokens", "20", "a waiting request joins as soon as a slot is free, without counting steps"),
        (
            "--max-batch-total-tokens",
            "4096",
            "the budget is `max_batch_size` x `max_total_tokens`, claimed once at start-up",
        ),
        ("--cuda-graphs", "1,2,4", "there is no CUDA device"),
        ("--prometheus-port", "9000", "metrics are at `/metrics` on the port of `--port`"),
        ("--shard-uds-path", "/tmp/tgi", "the launcher makes a private socket for each engine"),
        ("--master-addr", "localhost", "engines do not use torch's distributed package"),
        ("--master-port", "29500", "engines do not use torch's distributed package"),
        ("--disable-custom-kernels", "", "there are no CUDA kernels"),
        (
            "--cuda-memory-fraction",
            "0.9",
            "KV memory is claimed once, for `max_batch_size` x `max_total_tokens` tokens",
        ),
        ("--usage-stats", "off", "nothing is ever sent, whatever the value"),
        (
            "--enable-prefill-logprobs",
            "",
            "what the target can report needs no enabling; the request's `decoder_input_details` decides",
        ),
        ("--watermark-gamma", "0.5", "no target can watermark"),
        ("--watermark-delta", "2", "no target can watermark"),
    ],
)
def test_what_has_no_effect_warns_with_the_reason(flag: str, text: str, reason: str) -> None:
    variable = flag[2:].replace("-", "_").upper()
    assert load(*([flag, text] if text else [flag])).warnings == (f"flag `{flag}` has no effect: {reason}",)
    assert load(**{variable: text or "true"}).warnings == (
        f"environment variable `{variable}` has no effect: {reason}",
    )


def test_a_switch_without_effect_that_is_off_does_not_warn() -> None:
    assert load(DISABLE_CUSTOM_KERNELS="false").warnings == ()


# Refused

ROPE = "rotary scaling is part of the model; set `rope_scaling` in the model's `config.json` instead"
NGROK = "no tunnels are opened; run a tunnel or a reverse proxy in front of `--port` instead"


@pytest.mark.parametrize(
    ("flag", "text", "reason"),
    [
        (
            "--trust-remote-code",
            "",
            "code from a model's repository is never run; leave the option out, supported models do not need it",
        ),
        ("--speculate", "2", "speculation is not available; leave the option out or give `0`"),
        ("--rope-scaling", "linear", ROPE),
        ("--rope-factor", "2.0", ROPE),
        ("--ngrok", "", NGROK),
        ("--ngrok-authtoken", "secret", NGROK),
        ("--ngrok-edge", "edge", NGROK),
    ],
)
def test_what_is_refused_says_why_and_what_to_do(flag: str, text: str, reason: str) -> None:
    variable = flag[2:].replace("-", "_").upper()
    assert option_error(*([flag, text] if text else [flag])) == f"flag `{flag}` is refused: {reason}"
    assert option_error(**{variable: text or "true"}) == f"environment variable `{variable}` is refused: {reason}"


def test_what_is_refused_may_be_given_a_value_that_asks_for_nothing() -> None:
    assert load("--speculate", "0", TRUST_REMOTE_CODE="false", NGROK="false").warnings == ()


ONE_DEVICE = "a model is not split over devices; "
GPU_KERNELS = "it is made for GPU kernels; `auto`, `none`, `int8` and `int4` work with any model"
NO_FP8 = "the CPU has no 8-bit floats; `u8` is as small, and `auto`, `float32` and `bfloat16` work too"


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        (
            "--num-shard",
            "2",
            ONE_DEVICE + "run one launcher per replica behind a load balancer instead, and on Neuron devices give "
            "`--num-cores`",
        ),
        ("--sharded", "true", ONE_DEVICE + "leave the option out or give `false`"),
        ("--dtype", "float16", "the CPU computes in `float32` or `bfloat16`; give one of these, or `auto`"),
        ("--kv-cache-dtype", "fp8_e4m3fn", NO_FP8),
        ("--kv-cache-dtype", "fp8_e5m2", NO_FP8),
        ("--quantize", "exl2", GPU_KERNELS),
        ("--quantize", "marlin", GPU_KERNELS),
        ("--quantize", "bitsandbytes-nf4", GPU_KERNELS),
        ("--quantize", "bitsandbytes-fp4", GPU_KERNELS),
    ],
)
def test_a_value_of_tgi_that_does_not_work_is_refused_and_says_what_works(flag: str, value: str, reason: str) -> None:
    assert option_error(flag, value) == f"flag `{flag}` does not take `{value}`: {reason}"
