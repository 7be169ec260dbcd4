"""Limits from the artifact and the command line: what is added, and how contradictions are told."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ranvier.artifacts import FORMAT, Manifest
from ranvier.compose.plan import ServePlan, find_source, settle_limits
from ranvier.config import LauncherConfig, load_config
from ranvier.core import Limits
from ranvier.errors import ArtifactError, ModelError, OptionError

MANIFEST = Manifest(
    format=FORMAT,
    model_id="model",
    revision=None,
    target="cpu",
    batch_size=8,
    sequence_length=256,
    quantize="int8",
    dtype="bfloat16",
    kv_cache_dtype="u8",
    weights_bytes=0,
    key={},
    weights_key="",
    ranvier_version="0",
)


def config(*argv: str, **environ: str) -> LauncherConfig:
    return load_config(["--model-id", "model", *argv], {"HOME": "/home/x", **environ}, prog="ranvier serve")


def refused(kind: type[Exception], *argv: str, **environ: str) -> str:
    with pytest.raises(kind) as caught:
        settle_limits(config(*argv, **environ), MANIFEST)
    return str(caught.value)


def test_without_options_the_artifact_decides() -> None:
    assert settle_limits(config(), MANIFEST) == Limits(
        batch_size=8, sequence_length=256, max_input_tokens=255, max_batch_prefill_tokens=512
    )


def test_options_that_agree_are_taken() -> None:
    agreed = ("--max-batch-size", "8", "--max-total-tokens", "256", "--quantize", "int8", "--dtype", "bfloat16")
    assert settle_limits(config(*agreed, "--kv-cache-dtype", "u8"), MANIFEST).batch_size == 8


def test_what_the_artifact_leaves_open_can_be_set() -> None:
    given = config("--max-input-tokens", "100", "--max-batch-prefill-tokens", "128")
    limits = settle_limits(given, MANIFEST)

    assert (limits.max_input_tokens, limits.max_batch_prefill_tokens) == (100, 128)


@pytest.mark.parametrize(
    ("flag", "value", "made_for"),
    [
        ("max-batch-size", "4", "8"),
        ("max-total-tokens", "512", "256"),
        ("quantize", "int4", "int8"),
        ("quantize", "none", "int8"),
        ("dtype", "float32", "bfloat16"),
        ("kv-cache-dtype", "bfloat16", "u8"),
    ],
)
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_contradiction_names_both_values_and_where_they_come_from(
    flag: str, value: str, made_for: str, by: str
) -> None:
    variable = flag.replace("-", "_").upper()
    message = (
        refused(ArtifactError, f"--{flag}", value) if by == "flag" else refused(ArtifactError, **{variable: value})
    )
    source = f"flag `--{flag}`" if by == "flag" else f"environment variable `{variable}`"

    assert message == (
        f"`{variable.lower()}` is {value} by {source}, but the artifact was exported for {made_for}; "
        "leave the option out or export the model again"
    )


@pytest.mark.parametrize("tokens", ["256", "300"])
def test_a_prompt_limit_beyond_the_artifact_names_both_values_and_where_they_come_from(tokens: str) -> None:
    wanted = (
        "`max_input_tokens` must be < `max_total_tokens`. Given: {0} by {1}, "
        "and 256, for which the artifact was exported"
    )
    assert refused(OptionError, "--max-input-tokens", tokens) == wanted.format(tokens, "flag `--max-input-tokens`")
    assert refused(OptionError, MAX_INPUT_TOKENS=tokens) == wanted.format(
        tokens, "environment variable `MAX_INPUT_TOKENS`"
    )


def test_the_first_token_beyond_the_prompt_always_fits() -> None:
    assert settle_limits(config("--max-input-tokens", "255"), MANIFEST).max_input_tokens == 255
    shortest = dataclasses.replace(MANIFEST, sequence_length=2)
    assert settle_limits(config(), shortest).max_input_tokens == 1


def test_a_plan_goes_through_a_pipe_and_comes_back() -> None:
    given: dict[str, Any] = {"artifact_directory": "/a", "socket_path": "/s"}
    plan = ServePlan(config=config("--api-key", "k").to_json(), limits=settle_limits(config(), MANIFEST), **given)

    assert ServePlan.from_json(plan.to_json()) == plan
    assert plan.launcher_config().api_key == "k"


def test_a_missing_model_id_is_told_with_what_it_may_be() -> None:
    with pytest.raises(ModelError) as caught:
        find_source(None, None, None)
    assert str(caught.value) == (
        "`model_id` is missing; give `--model-id` a checkpoint directory, a .gguf file, an exported artifact, "
        "package:NAME or a hub id"
    )
