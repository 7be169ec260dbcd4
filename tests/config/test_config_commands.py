"""Loading a command's config: checks between options, help and version, export, secrets, the way to a child process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier import __version__
from ranvier.config import (
    EXPORT_OPTIONS,
    OPTIONS,
    ExportConfig,
    LauncherConfig,
    Option,
    check_prefill_budget,
    load_config,
    load_export_config,
)
from ranvier.errors import OptionError

PROG = "text-generation-launcher"


def load(*argv: str, **environ: str) -> LauncherConfig:
    return load_config(argv, environ, prog=PROG)


def export(*argv: str, **environ: str) -> ExportConfig:
    return load_export_config(argv, environ, "ranvier export")


# Checks between options

BOTH_NAMES = (
    "Both `max_input_tokens` (8) and `max_input_length` (9) are set. Please define only `max_input_tokens` as "
    "`max_input_length is deprecated for naming consistency."
)


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (["--max-input-tokens=8", "--max-input-length=9"], {}),
        (["--max-input-tokens=8"], {"MAX_INPUT_LENGTH": "9"}),
        (["--max-input-length=9"], {"MAX_INPUT_TOKENS": "8"}),
        ([], {"MAX_INPUT_TOKENS": "8", "MAX_INPUT_LENGTH": "9"}),
    ],
)
def test_both_names_of_the_longest_prompt_are_an_error_in_any_mix(argv: list[str], environ: dict[str, str]) -> None:
    with pytest.raises(OptionError) as error_info:
        load(*argv, **environ)
    assert str(error_info.value) == BOTH_NAMES


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--max-input-tokens=16", "--max-total-tokens=16"],
            "`max_input_tokens`(16) must be < `max_total_tokens`(16)",
        ),
        (
            ["--max-input-length=17", "--max-total-tokens=16"],
            "`max_input_tokens`(17) must be < `max_total_tokens`(16)",
        ),
        (
            ["--max-total-tokens=16", "--max-batch-total-tokens=15"],
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 16 and 15",
        ),
        (
            ["--max-batch-prefill-tokens=16", "--max-batch-total-tokens=15"],
            "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: 16 and 15",
        ),
        (["--validation-workers=0"], "`validation_workers` must be > 0"),
        (["--max-batch-size=0"], "`max_batch_size` must be > 0"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_the_text_of_tgi(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError) as error_info:
        load(*argv)
    assert str(error_info.value) == message


def test_a_zero_in_a_variable_has_the_text_of_tgi_too() -> None:
    with pytest.raises(OptionError) as error_info:
        load(MAX_BATCH_SIZE="0")
    assert str(error_info.value) == "`max_batch_size` must be > 0"


@given(max_input=st.integers(1, 99), max_total=st.integers(1, 99), budget=st.none() | st.integers(1, 99))
def test_limits_are_accepted_exactly_when_the_prompt_leaves_room_and_the_budget_holds_a_sequence(
    max_input: int, max_total: int, budget: int | None
) -> None:
    argv = [f"--max-input-tokens={max_input}", f"--max-total-tokens={max_total}"]
    argv += [] if budget is None else [f"--max-batch-total-tokens={budget}"]
    fits = max_input < max_total and (budget is None or max_total <= budget)
    try:
        config = load(*argv)
    except OptionError:
        assert not fits
    else:
        assert fits
        assert (config.max_input_tokens, config.max_total_tokens) == (max_input, max_total)


def test_one_limit_alone_contradicts_nothing() -> None:
    assert load("--max-input-tokens=4096").max_total_tokens is None
    assert load("--max-total-tokens=16").max_input_tokens is None
    assert load("--max-batch-total-tokens=1").max_total_tokens is None


def test_a_prefill_budget_below_the_prompt_is_an_error_only_where_prompts_are_not_prefilled_in_chunks() -> None:
    assert load("--max-batch-prefill-tokens=7", "--max-input-tokens=8").max_batch_prefill_tokens == 7
    check_prefill_budget(max_batch_prefill_tokens=8, max_input_tokens=8)
    with pytest.raises(OptionError) as error_info:
        check_prefill_budget(max_batch_prefill_tokens=7, max_input_tokens=8)
    assert str(error_info.value) == "`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: 7 and 8"


# Help and version


def output_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        load(*argv)
    assert exit_info.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_and_ends_the_program(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(capsys, flag)
    assert text.startswith(
        "Serve a language model with the API of Text Generation Inference.\n\n"
        "Usage: text-generation-launcher [OPTIONS]\n\n"
        "A flag is stronger than its environment variable, and that is stronger than the default.\n\n"
        "Model:\n"
        "      --model-id <MODEL_ID>\n"
    )
    assert (
        "  -p, --port <PORT>\n"
        "          Port to listen on; 0 takes a free one. [env: AIP_HTTP_PORT, PORT] [default: 3000]\n"
        "      --validation-workers <NUM_THREADS>\n"
    ) in text
    assert "  -e, --env\n          Log versions and hardware, then go on.\n" in text
    assert (
        "      --cuda-graphs <CUDA_GRAPHS>\n"
        "          Batch sizes that get a CUDA graph. [env: CUDA_GRAPHS] (there is no CUDA device)\n"
    ) in text
    assert "[values: cpu, neuron, nxd] [env: TARGET]" in text
    assert "scripted" not in text


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: str(option.name))
def test_help_names_each_option_with_all_its_flags_variables_and_default(
    option: Option, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(output_of(capsys, "--help").split())
    entry = words[words.index(f" {option.flags[0]} ") :]
    assert entry.index(option.help) < len(option.flags[0]) + len(option.shown_metavar) + 6
    assert ", ".join(sorted(option.flags, key=len)) in words
    assert f"[env: {', '.join(option.variables)}]" in entry or not option.variables


def test_help_is_no_wider_than_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert max(len(line) for line in output_of(capsys, "--help").splitlines()) <= 100


def test_help_wins_over_mistakes_behind_it_and_over_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, "--help", "--nope") == output_of(capsys, "--port", "x", "--help")
    with pytest.raises(SystemExit) as exit_info:
        load_config(["--help"], {"PORT": "x", "NGROK": "true"}, prog=PROG)
    assert exit_info.value.code == 0


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_the_program_and_its_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, flag) == f"text-generation-launcher {__version__}\n"


# Secrets and reports


def test_the_key_is_masked_in_repr_and_report() -> None:
    config = load("--api-key", "hunter2", "--model-id", "m")
    assert config.api_key == "hunter2"
    assert "hunter2" not in repr(config)
    assert repr(config).startswith("LauncherConfig(model_id='m', revision=None, ")
    assert "api_key=***, " in repr(config)
    assert "hunter2" not in "".join(config.report())
    assert "api_key = *** (flag `--api-key`)" in config.report()


def test_a_key_that_was_not_given_is_seen_as_such() -> None:
    assert "api_key=None, " in repr(load())
    assert "api_key = None (default)" in load().report()


def test_the_report_has_a_line_with_the_source_for_each_value() -> None:
    report = load("-p", "80", MODEL_ID="m").report()
    assert len(report) == len(dataclasses.fields(LauncherConfig)) - len(("sources", "warnings"))
    assert report[0] == "model_id = 'm' (environment variable `MODEL_ID`)"
    assert "port = 80 (flag `-p`)" in report
    assert "max_best_of = 2 (default)" in report


# To a child process


@given(
    api_key=st.none() | st.text(min_size=1).filter(str.strip),
    origins=st.lists(st.sampled_from(["a", "b"]), max_size=3),
    port=st.integers(0, 65535),
)
def test_a_config_survives_the_way_through_json(api_key: str | None, origins: list[str], port: int) -> None:
    argv = [f"--cors-allow-origin={origin}" for origin in origins] + ["--cuda-graphs=0", f"--port={port}"]
    argv += [] if api_key is None else [f"--api-key={api_key}"]
    config = load(*argv)
    assert LauncherConfig.from_json(config.to_json()) == config


def test_json_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        LauncherConfig.from_json("port = 80")
    with pytest.raises(TypeError, match="unexpected keyword argument 'batch'"):
        LauncherConfig.from_json('{"batch": 1}')
    with pytest.raises(TypeError, match="missing .* required keyword-only argument"):
        LauncherConfig.from_json('{"port": 80}')


def test_a_config_cannot_be_altered() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().port = 1  # type: ignore[misc]  # the assignment is what is tested


# Export


def test_export_takes_its_own_options_and_some_of_the_launchers() -> None:
    config = export(
        *("--model-id", "m", "--batch_size=4", "--sequence-length", "2048", "--dtype=bfloat16", "out"),
        QUANTIZE="int8",
    )
    assert config == ExportConfig(
        model_id="m",
        output="out",
        revision=None,
        batch_size=4,
        sequence_length=2048,
        quantize="int8",
        dtype="bfloat16",
        kv_cache_dtype="auto",
        target="cpu",
        num_cores=None,
        auto_cast_type=None,
        emulate_neuron=False,
        instance=None,
        lnc=None,
        prefill_buckets=(),
        chunk_buckets=(),
        decode_buckets=(),
        sources={
            "model_id": "flag `--model-id`",
            "revision": "default",
            "batch_size": "flag `--batch_size`",
            "sequence_length": "flag `--sequence-length`",
            "quantize": "environment variable `QUANTIZE`",
            "dtype": "flag `--dtype`",
            "kv_cache_dtype": "default",
            "target": "default",
            "num_cores": "default",
            "auto_cast_type": "default",
            "emulate_neuron": "default",
            "instance": "default",
            "lnc": "default",
            "prefill_buckets": "default",
            "chunk_buckets": "default",
            "decode_buckets": "default",
        },
        warnings=(),
    )


@pytest.mark.parametrize("flags", [("--batch-size", "--sequence-length"), ("--batch_size", "--sequence_length")])
def test_the_limits_of_export_are_written_with_dashes_or_underscores(flags: tuple[str, str]) -> None:
    config = export("out", "--model-id=m", flags[0], "2", f"{flags[1]}=8")
    assert (config.batch_size, config.sequence_length) == (2, 8)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model-id=m"], "the argument OUTPUT is missing"),
        (["--model-id=m", "a", "b"], "unexpected argument `b`; options begin with `--`"),
        (["a", "--port=3"], "unknown flag `--port`"),
        (["a", "--batch-size=1", "--batch_size=1"], "flag `--batch_size` is given more than once; give it once"),
        (
            ["a", "--sequence-length=1"],
            "flag `--sequence-length` must be a whole number from 2 to 4294967295. Given: `1`",
        ),
    ],
)
def test_a_mistake_in_the_arguments_of_export_prints_its_usage(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        export(*argv)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {message}\n\nUsage: ranvier export [OPTIONS] OUTPUT\nFor every option: ranvier export --help\n"
    )


def test_export_without_a_model_is_an_error() -> None:
    with pytest.raises(OptionError) as error_info:
        export("out")
    assert str(error_info.value) == "`model_id` is missing; give `--model-id` or set `MODEL_ID`"


def test_an_output_directory_may_begin_with_a_dash_behind_two() -> None:
    assert export("--model-id=m", "--", "-out").output == "-out"


def test_the_help_of_export_shows_its_options_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        export("--help")
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "Export a model into an artifact: a directory that the launcher can serve.\n\n"
        "Usage: ranvier export [OPTIONS] OUTPUT\n"
    )
    assert "      --batch-size, --batch_size <NUM_SLOTS>\n" in text
    headings = [line for line in text.splitlines() if line.startswith(("  -", "      -"))]
    assert len(headings) == len(EXPORT_OPTIONS)
    assert "--port" not in text


def test_a_process_of_its_own_answers_help_without_a_warning() -> None:
    code = "import os, sys; from ranvier.config import load_config; load_config(sys.argv[1:], os.environ, prog='x')"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PORT": "not read"},
    )
    assert run.stdout.startswith("Serve a language model")
    assert run.stderr == ""
