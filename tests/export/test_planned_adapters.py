"""Which adapters the launcher hands to the engine process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_settled_limits import MANIFEST, config

from ranvier.artifacts import AdapterSource, Artifact
from ranvier.compose.plan import ServePlan, find_adapters, settle_limits
from ranvier.errors import OptionError

ARTIFACT = Artifact(Path("/artifact"), MANIFEST)


def test_entries_of_flags_and_of_the_variable_become_names_with_directories(tmp_path: Path) -> None:
    expected = (AdapterSource("a", str(tmp_path)), AdapterSource("b", str(tmp_path)))
    entries = [f"a={tmp_path}", f"b={tmp_path}"]
    for given in (
        config("--lora-adapters", ",".join(entries)),
        config("--lora-adapters", entries[0], "--lora-adapters", entries[1]),
        config(LORA_ADAPTERS=", ".join(entries)),
    ):
        assert find_adapters(given, ARTIFACT) == expected
    assert find_adapters(config(), ARTIFACT) == ()


def test_an_adapter_may_not_have_the_models_own_name(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has an adapter called 'model', by which clients ask for the model itself"):
        find_adapters(config("--lora-adapters", f"model={tmp_path}"), ARTIFACT)


def test_a_target_that_cannot_serve_adapters_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    other = replace(config("--lora-adapters", f"a={tmp_path}"), target="other")
    with pytest.raises(OptionError) as caught:
        find_adapters(other, ARTIFACT)
    assert str(caught.value) == (
        "`lora_adapters` is not served by target other; merge the adapter into the model, or give `--target cpu`"
    )
    assert find_adapters(replace(config(), target="other"), ARTIFACT) == ()


def test_adapters_go_through_the_pipe_with_the_plan() -> None:
    plan = ServePlan(
        config=config().to_json(),
        artifact_directory="/a",
        limits=settle_limits(config(), MANIFEST),
        socket_path="/s",
        adapters=(AdapterSource("a", "/x"), AdapterSource("org/b", "/y")),
    )
    assert ServePlan.from_json(plan.to_json()) == plan
