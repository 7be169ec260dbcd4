"""From flags, variables and defaults to values: precedence and spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.config import OPTIONS, LauncherConfig, Option, Status, load_config
from ranvier.config.reading import Setting, UsageError, resolve, scan
from ranvier.errors import OptionError

PROG = "text-generation-launcher"


def load(*argv: str, **environ: str) -> LauncherConfig:
    return load_config(argv, environ, prog=PROG)


# Precedence


def texts_of(option: Option) -> st.SearchStrategy[str]:
    """Texts that the option takes, as a person might write them."""
    if option.kind == "whole":
        return st.integers(int(option.minimum), int(option.maximum)).map(str)
    if option.kind == "choice":
        return st.sampled_from(option.takes or option.choices).map(str)
    if option.kind == "address":
        return st.ip_addresses().map(str)
    if option.kind == "list":
        return st.lists(st.from_regex(r"https://[a-z]{1,9}", fullmatch=True), min_size=1).map(",".join)
    return st.from_regex(r"[A-Za-z0-9/_.][A-Za-z0-9/_.-]*", fullmatch=True)


def value_of(option: Option, text: str) -> object:
    if option.kind == "whole":
        return int(text)
    return tuple(text.split(",")) if option.kind == "list" else text


HONOURED = [option for option in OPTIONS if option.status is Status.HONOURED and option.kind != "switch"]
SWITCHES = [option for option in OPTIONS if option.status is Status.HONOURED and option.kind == "switch"]


@given(data=st.data())
def test_a_flag_is_stronger_than_a_variable_and_that_than_the_default(data: st.DataObject) -> None:
    option = data.draw(st.sampled_from(HONOURED))
    as_flag = data.draw(st.none() | texts_of(option))
    as_variable = data.draw(st.none() | texts_of(option))
    flag = data.draw(st.sampled_from(option.flags))
    argv = [] if as_flag is None else data.draw(st.sampled_from([[flag, as_flag], [f"{flag}={as_flag}"]]))
    environ = {} if as_variable is None else {option.variables[0]: as_variable}
    config = load_config(argv, environ, prog=PROG)
    if as_flag is not None:
        expected, source = value_of(option, as_flag), f"flag `{flag}`"
    elif as_variable is not None:
        expected, source = value_of(option, as_variable), f"environment variable `{option.variables[0]}`"
    else:
        expected, source = getattr(load(HOME="/home/x"), option.field_name), "default"
    if (as_flag, as_variable, option.name) != (None, None, "artifact_cache"):
        assert getattr(config, option.field_name) == expected
    assert config.sources[option.field_name] == source
    assert [name for name, each in config.sources.items() if each != "default"] == [option.field_name] * bool(
        argv or environ
    )


@given(option=st.sampled_from(SWITCHES), as_flag=st.booleans(), as_variable=st.sampled_from(["true", "false", None]))
def test_a_switch_is_on_as_a_flag_whatever_its_variable_says(
    option: Option, as_flag: bool, as_variable: str | None
) -> None:
    if option.name in ("help", "version"):
        return
    environ = {option.variables[0]: as_variable} if as_variable and option.variables else {}
    config = load_config([option.flags[0]] if as_flag else [], environ, prog=PROG)
    assert getattr(config, option.field_name) is (as_flag or environ.get(option.name.upper()) == "true")


def test_a_variable_under_a_flag_is_not_even_parsed() -> None:
    assert load("--port", "80", PORT="eighty").port == 80


def test_everything_has_a_default() -> None:
    config = load(HOME="/home/x")
    assert config == LauncherConfig(
        model_id=None,
        revision=None,
        tokenizer_config_path=None,
        hub_cache=None,
        lora_adapters=(),
        quantize="auto",
        dtype="auto",
        kv_cache_dtype="auto",
        max_batch_size=None,
        max_input_tokens=None,
        max_total_tokens=None,
        max_batch_prefill_tokens=None,
        max_concurrent_requests=128,
        max_best_of=2,
        max_stop_sequences=4,
        max_top_n_tokens=5,
        max_client_batch_size=4,
        payload_limit=2_000_000,
        disable_grammar_support=False,
        hostname="0.0.0.0",
        port=3000,
        validation_workers=2,
        api_key=None,
        cors_allow_origin=(),
        graceful_termination_timeout=90,
        json_output=False,
        otlp_endpoint=None,
        otlp_service_name="text-generation-inference.router",
        target="cpu",
        num_threads=None,
        engine_python=None,
        single_process=False,
        num_cores=None,
        auto_cast_type=None,
        emulate_neuron=False,
        sampling_defaults="none",
        artifact_cache="/home/x/.cache/ranvier",
        log_level="info",
        log_colorize="auto",
        log_prompts=False,
        print_env=False,
        sources=dict.fromkeys(config.sources, "default"),
        warnings=(),
    )


def test_the_environment_of_a_container_is_understood() -> None:
    config = load(
        MODEL_ID="some/model", PORT="80", HOSTNAME="3f2a9c51d0be", JSON_OUTPUT="true", HUGGINGFACE_HUB_CACHE="/data"
    )
    assert (config.model_id, config.port, config.hostname) == ("some/model", 80, "0.0.0.0")
    assert (config.json_output, config.hub_cache, config.warnings) == (True, "/data", ())
    assert config.sources["hostname"] == "default"


def test_the_names_and_the_argument_that_sagemaker_uses_are_understood() -> None:
    config = load("serve", HF_MODEL_ID="some/model", HF_MODEL_REVISION="v2", HF_MODEL_QUANTIZE="int8", SM_NUM_GPUS="1")
    assert (config.model_id, config.revision, config.quantize) == ("some/model", "v2", "int8")
    assert config.sources["model_id"] == "environment variable `HF_MODEL_ID`"


def test_the_first_name_of_a_variable_wins_and_says_so_if_the_second_differs() -> None:
    config = load(MODEL_ID="a", HF_MODEL_ID="b")
    assert config.model_id == "a"
    assert config.warnings == (
        "environment variable `HF_MODEL_ID` is not used, because `MODEL_ID` is set to another value",
    )
    assert load(MODEL_ID="a", HF_MODEL_ID="a").warnings == ()


def test_the_names_of_the_limits_in_older_sagemaker_examples_are_understood_and_weaker() -> None:
    config = load(HF_BATCH_SIZE="4", HF_SEQUENCE_LENGTH="2048")
    assert (config.max_batch_size, config.max_total_tokens, config.warnings) == (4, 2048, ())
    assert config.sources["max_total_tokens"] == "environment variable `HF_SEQUENCE_LENGTH`"
    both = load(HF_BATCH_SIZE="4", MAX_BATCH_SIZE="8")
    assert both.max_batch_size == 8
    assert both.warnings == (
        "environment variable `HF_BATCH_SIZE` is not used, because `MAX_BATCH_SIZE` is set to another value",
    )


@pytest.mark.parametrize(
    ("text", "value"), [("bfloat16", "bf16"), ("Float16", "fp16"), ("float32", "fp32"), ("BF16", "bf16")]
)
def test_a_cast_type_may_have_the_name_that_torch_gives_it(text: str, value: str) -> None:
    assert load(HF_AUTO_CAST_TYPE=text).auto_cast_type == value
    assert load("--auto-cast-type", text).auto_cast_type == value


def test_the_override_of_the_hub_cache_wins_from_wherever_it_comes() -> None:
    config = load("--huggingface-hub-cache", "/hub", WEIGHTS_CACHE_OVERRIDE="/mounted")
    assert config.hub_cache == "/mounted"
    assert config.sources["hub_cache"] == "environment variable `WEIGHTS_CACHE_OVERRIDE`"


@pytest.mark.parametrize(
    ("home", "path", "expected"),
    [
        ("/home/x", "~/cache", "/home/x/cache"),
        ("/home/x", "~", "/home/x"),
        ("/home/x", "~other/cache", "~other/cache"),
        ("/home/x", "/a/~/b", "/a/~/b"),
    ],
)
def test_a_leading_tilde_of_a_path_is_the_home_directory(home: str, path: str, expected: str) -> None:
    config = load("--artifact-cache", path, HOME=home, HUGGINGFACE_HUB_CACHE=path)
    assert (config.artifact_cache, config.hub_cache) == (expected, expected)


def test_a_tilde_without_home_in_the_environment_is_the_users_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/from-the-process")
    assert load(HOME="").artifact_cache == "/home/from-the-process/.cache/ranvier"


# Spellings


@pytest.mark.parametrize(
    "argv", [["--port", "80"], ["--port=80"], ["-p", "80"], ["-p80"], ["-p=80"], ["--port", "+80"], ["--", "--port=1"]]
)
def test_flags_can_be_written_in_these_ways(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if argv[0] == "--":
        with pytest.raises(SystemExit):
            load(*argv)
        assert "unexpected argument `--port=1`; options begin with `--`" in capsys.readouterr().err
    else:
        assert load(*argv).port == 80


def test_short_flags_of_switches_and_values_mix() -> None:
    config = load("-e", "-g", "5", "-p8080", "--json-output")
    assert (config.print_env, config.graceful_termination_timeout, config.port) == (True, 5, 8080)
    assert config.json_output


def test_choices_are_compared_without_case() -> None:
    assert load(LOG_LEVEL="INFO").log_level == "info"


def test_the_hidden_target_can_be_chosen() -> None:
    assert load("--target", "scripted").target == "scripted"


def test_a_list_is_repeated_or_comma_separated() -> None:
    assert load("--cors-allow-origin", "a", "--cors-allow-origin=b, c").cors_allow_origin == ("a", "b", "c")
    assert load(CORS_ALLOW_ORIGIN="a,b,").cors_allow_origin == ("a", "b")


def test_a_value_may_begin_with_a_dash_if_it_is_joined_or_a_number() -> None:
    assert load("--api-key=-secret").api_key == "-secret"
    assert load("--watermark-delta", "-.5").warnings == (
        "flag `--watermark-delta` has no effect: no target can watermark",
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1", "127.0.0.1"), ("::", "::"), ("localhost", "127.0.0.1")],
)
def test_the_hostname_is_an_address_or_localhost(text: str, address: str) -> None:
    assert load("--hostname", text).hostname == address


def test_a_hostname_that_is_no_address_means_the_default_and_as_a_flag_warns() -> None:
    config = load("--hostname", "my-machine")
    assert (config.hostname, config.sources["hostname"]) == ("0.0.0.0", "default")
    assert config.warnings == (
        "flag `--hostname` is not an IP address or `localhost`, so `0.0.0.0` is used. Given: `my-machine`",
    )


@given(argv=st.lists(st.sampled_from(["--port", "80", "-p", "-p=", "--", "-", "x", "--json-output", "--nope", "-e=1"])))
def test_any_command_line_is_read_or_is_a_usage_error(argv: list[str]) -> None:
    try:
        settings, _ = resolve(OPTIONS, scan(argv, OPTIONS), {})
    except UsageError:
        return
    assert isinstance(settings["port"].value, int)


@given(text=st.text())
def test_any_text_of_a_variable_is_a_port_or_an_option_error(text: str) -> None:
    try:
        port = load(PORT=text).port
    except OptionError as error:
        assert str(error) == (f"environment variable `PORT` must be a whole number from 0 to 65535. Given: `{text}`")
    else:
        assert 0 <= port <= 65535
        assert int(text) == port


@given(number=st.integers(2, 2**32 - 1), given_as=st.sampled_from(["--max-input-tokens", "--max-input-length"]))
def test_both_names_of_the_longest_prompt_set_the_same_field(number: int, given_as: str) -> None:
    config = load(given_as, str(number))
    assert config.max_input_tokens == number
    assert config.sources["max_input_tokens"] == f"flag `{given_as}`"


def test_a_setting_knows_whether_somebody_gave_it() -> None:
    assert Setting(option=OPTIONS[0], value="m", source="flag `--model-id`").is_given
    assert not Setting(option=OPTIONS[0], value=None, source="default").is_given
