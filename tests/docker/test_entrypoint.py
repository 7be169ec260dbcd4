"""`docker/entrypoint`: what the launcher gets in each mode, and in the examples that documents show.

The launcher is a stub that prints its arguments and variables. `RANVIER_CONTAINER_ROOT` puts the container's
directories under a temporary one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfiles import DOCKER
from entrypoint_runs import Start, Started

from documented_commands import EXAMPLES, SAGEMAKER_EXAMPLES, split_command
from ranvier.config import LauncherConfig, load_config


def config_of(started: Started) -> LauncherConfig:
    """What the real launcher reads from the same arguments and variables."""
    return load_config(started.arguments, started.environ, prog="text-generation-launcher")


def put_model(directory: Path, name: str = "config.json") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("{}")


# Plain


def test_arguments_reach_the_launcher_as_they_are(start: Start) -> None:
    arguments = ["--model-id", "a b", "--api-key", "$(x) \"'*", "--json-output"]
    assert start(*arguments).arguments == arguments


def test_the_port_is_80_unless_the_variable_says_otherwise(start: Start) -> None:
    assert start().environ["PORT"] == "80"
    assert start(PORT="").environ["PORT"] == "80"
    assert start(PORT="3000").environ["PORT"] == "3000"


def test_the_launcher_takes_the_place_of_the_script_so_that_signals_reach_it(start: Start) -> None:
    before, after = start().pids
    assert before == after


def test_a_signal_ends_the_launcher(start: Start, root: Path, tmp_path: Path) -> None:
    launcher = tmp_path / "stubs/text-generation-launcher"
    launcher.write_text(
        f"#!{sys.executable}\nimport signal, sys\nsignal.signal(15, lambda *_: sys.exit(7))\n"
        "print('up', flush=True)\nsignal.pause()\n"
    )
    environ = {"PATH": f"{launcher.parent}:/usr/bin:/bin", "RANVIER_CONTAINER_ROOT": str(root)}
    with subprocess.Popen([str(DOCKER / "entrypoint")], env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 7


def test_caches_are_on_the_volume_where_tgi_has_them(start: Start, root: Path) -> None:
    environ = start().environ
    assert environ["HUGGINGFACE_HUB_CACHE"] == f"{root}/data"
    assert environ["HF_HOME"] == f"{root}/data/.huggingface"
    assert environ["RANVIER_CACHE"] == f"{root}/data/ranvier"
    assert "NEURON_COMPILE_CACHE_URL" not in environ


def test_a_neuron_image_keeps_what_it_compiles_on_the_volume(start: Start, root: Path) -> None:
    (root / "opt/aws/neuron").mkdir(parents=True)
    assert start().environ["NEURON_COMPILE_CACHE_URL"] == f"{root}/data/neuron"
    assert start(NEURON_COMPILE_CACHE_URL="s3://x").environ["NEURON_COMPILE_CACHE_URL"] == "s3://x"


@pytest.mark.parametrize("name", ["HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE", "HF_HOME"])
def test_the_hubs_own_variables_win_over_the_volume(start: Start, root: Path, name: str) -> None:
    environ = start(**{name: "/elsewhere"}).environ
    assert environ[name] == "/elsewhere"
    assert name == "HUGGINGFACE_HUB_CACHE" or "HUGGINGFACE_HUB_CACHE" not in environ
    assert start(RANVIER_CACHE="/mine").environ["RANVIER_CACHE"] == "/mine"


def test_without_a_volume_caches_are_temporary_and_the_log_says_so(start: Start, root: Path) -> None:
    (root / "data").rmdir()
    started = start()
    assert started.environ["HUGGINGFACE_HUB_CACHE"] == f"{root}/tmp/ranvier"
    assert started.environ["RANVIER_CACHE"] == f"{root}/tmp/ranvier/ranvier"
    assert started.said == (
        f"entrypoint: {root}/data is not writable: what is downloaded and exported goes to {root}/tmp/ranvier "
        "and ends with the container\n"
    )


def test_weights_on_a_volume_that_may_only_be_read_are_used(start: Start, root: Path) -> None:
    (root / "data/models--a--b").mkdir()
    environ = start(STUB_UID="0", STUB_USER="yes", STUB_CANNOT=f"{root}/data").environ
    assert environ["HUGGINGFACE_HUB_CACHE"] == f"{root}/data"
    assert environ["RANVIER_CACHE"] == f"{root}/tmp/ranvier/ranvier"


# User


def test_root_hands_over_to_the_user_of_the_image(start: Start) -> None:
    started = start("--x", STUB_UID="0", STUB_USER="yes")
    assert started.environ["STUB_SETPRIV"] == "yes"
    assert started.environ["HOME"] == "/home/ranvier"
    assert started.arguments == ["--x"]
    assert started.pids[0] == started.pids[1]


def test_the_user_changes_even_where_the_capability_for_low_ports_is_not_to_be_had(start: Start) -> None:
    assert start(STUB_UID="0", STUB_USER="yes", STUB_NO_CAPABILITY="yes").environ["STUB_SETPRIV"] == "yes"


def test_root_without_the_right_to_change_its_user_stays_root(start: Start) -> None:
    started = start("--x", STUB_UID="0", STUB_USER="yes", STUB_NO_SETUID="yes")
    assert "STUB_SETPRIV" not in started.environ and started.arguments == ["--x"]


def test_a_container_started_as_another_user_stays_so(start: Start) -> None:
    assert "STUB_SETPRIV" not in start(STUB_UID="1234", STUB_USER="yes").environ
    assert "STUB_SETPRIV" not in start(STUB_UID="0").environ


def test_the_server_stays_root_where_its_user_may_not_use_a_device(start: Start, root: Path) -> None:
    (root / "dev").mkdir()
    (root / "dev/neuron0").touch()
    allowed = start(STUB_UID="0", STUB_USER="yes")
    assert allowed.environ["STUB_SETPRIV"] == "yes" and allowed.said == ""
    refused = start(STUB_UID="0", STUB_USER="yes", STUB_CANNOT=f"{root}/dev/neuron0")
    assert "STUB_SETPRIV" not in refused.environ
    assert refused.said == f"entrypoint: user ranvier may not use {root}/dev/neuron0, so the server runs as root\n"


# Inference Endpoints


@pytest.mark.parametrize("name", ["config.json", "ranvier.json", "model-Q4_0.gguf"])
def test_a_mounted_repository_is_served(start: Start, root: Path, name: str) -> None:
    put_model(root / "repository", name)
    started = start()
    assert started.environ["MODEL_ID"] == f"{root}/repository"
    assert started.environ["PORT"] == "80" and started.said == ""
    assert config_of(started).model_id == f"{root}/repository"


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [(["--model-id", "x/y"], {}), (["--model-id=x/y"], {}), ([], {"MODEL_ID": "x/y"}), ([], {"HF_MODEL_ID": "x/y"})],
)
@pytest.mark.parametrize("directory", ["repository", "opt/ml/model"])
def test_a_named_model_wins_over_a_mounted_one(
    start: Start, root: Path, directory: str, arguments: list[str], environ: dict[str, str]
) -> None:
    put_model(root / directory)
    assert config_of(start(*arguments, **environ)).model_id == "x/y"


@pytest.mark.parametrize("directory", ["repository", "opt/ml/model"])
def test_a_directory_without_a_model_is_pointed_out(start: Start, root: Path, directory: str) -> None:
    (root / directory).mkdir(parents=True)
    started = start()
    assert "MODEL_ID" not in started.environ
    assert started.said == (
        f"entrypoint: {root}/{directory} holds no config.json, ranvier.json or .gguf file, and no model is named\n"
    )


# SageMaker


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["serve"], {}),
        ([], {"SAGEMAKER_REGION": "eu-west-1"}),
        ([], {"SM_NUM_GPUS": "1"}),
        ([], {"SM_ON_DTYPE": "auto"}),
    ],
)
def test_sagemaker_is_known_by_its_argument_and_its_variables(
    start: Start, arguments: list[str], environ: dict[str, str]
) -> None:
    started = start(*arguments, **environ, HF_MODEL_ID="x/y")
    config = config_of(started)
    assert (config.port, config.model_id) == (8080, "x/y")
    assert "serve" not in started.arguments


def test_sagemaker_is_known_by_its_model_directory(start: Start, root: Path) -> None:
    put_model(root / "opt/ml/model")
    put_model(root / "repository")
    config = config_of(start())
    assert (config.port, config.model_id) == (8080, f"{root}/opt/ml/model")


def test_sagemaker_may_choose_the_port(start: Start) -> None:
    assert start("serve", SAGEMAKER_BIND_TO_PORT="9000").environ["PORT"] == "9000"


def test_a_variable_that_merely_quotes_sagemakers_is_none(start: Start) -> None:
    assert start(NOTE="two lines\nand SM_ON_X=1", MY_SAGEMAKER_X="1").environ["PORT"] == "80"


@pytest.mark.parametrize(
    ("variable", "value", "flags"),
    [
        ("SM_ON_MAX_BATCH_SIZE", "4", ["--max-batch-size=4"]),
        ("SM_ON_MODEL", "x/y", ["--model-id=x/y"]),
        ("SM_ON_MODEL", "/opt/ml/true", ["--model-id=/opt/ml/true"]),
        ("SM_ON_BATCH_SIZE", "4", ["--max-batch-size=4"]),
        ("SM_ON_SEQUENCE_LENGTH", "2048", ["--max-total-tokens=2048"]),
        ("SM_ON_TENSOR_PARALLEL_SIZE", "2", ["--num-cores=2"]),
        ("SM_ON_API_KEY", "a b\n$(c)\"'", ["--api-key=a b\n$(c)\"'"]),
        ("SM_ON_JSON_OUTPUT", "true", ["--json-output"]),
        ("SM_ON_JSON_OUTPUT", "", ["--json-output"]),
        ("SM_ON_JSON_OUTPUT", "false", []),
        ("SM_ON_SHARDED", "false", []),
        ("SM_ON_SHARDED", "true", ["--sharded=true"]),
    ],
)
def test_a_variable_becomes_a_flag(start: Start, variable: str, value: str, flags: list[str]) -> None:
    assert start("serve", "--dtype", "auto", **{variable: value}).arguments == ["--dtype", "auto", *flags]


def test_a_line_inside_another_value_becomes_no_flag(start: Start) -> None:
    assert start("serve", NOTE="one\nSM_ON_PORT=1").arguments == []


def test_a_flag_that_does_not_exist_is_refused_by_the_launcher(start: Start) -> None:
    with pytest.raises(SystemExit) as ended:
        config_of(start("serve", SM_ON_MAX_BATCHSIZE="4"))
    assert ended.value.code == 2


# Documented examples


@pytest.mark.parametrize(("command", "expected"), EXAMPLES)
def test_a_documented_docker_command_is_understood(start: Start, command: str, expected: dict[str, object]) -> None:
    arguments, environ = split_command(command)
    started = start(*arguments, **environ)
    assert started.arguments == arguments
    config = config_of(started)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(("environ", "expected"), SAGEMAKER_EXAMPLES)
def test_a_documented_sagemaker_environment_is_understood(
    start: Start, environ: dict[str, str], expected: dict[str, object]
) -> None:
    config = config_of(start("serve", **environ))
    assert (config.model_id, config.port) == (environ["HF_MODEL_ID"], 8080)
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_documented_way_to_the_list_of_parameters_works(start: Start) -> None:
    with pytest.raises(SystemExit) as ended:
        config_of(start("--help"))
    assert ended.value.code == 0
