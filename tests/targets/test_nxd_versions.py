"""Every pin is compared before the heavy import, and the message says which differs and where the right one is."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from ranvier.errors import SetupError
from ranvier.targets.nxd import CONTAINER, PINS, artifact_versions, check_versions, installed_versions
from ranvier.targets.nxd.versions import PYTHON_PINS, SYSTEM_PINS

COMPILER = "2.21.33363.0+82129205"
INSTALLED = dict(PYTHON_PINS) | {"python": "3.11.9", "neuronx-cc": COMPILER, "torch": "2.8.0+cpu"}
ARTIFACT = {"optimum-neuron": "0.4.5", "neuronx-cc": COMPILER}


def refusal(installed: dict[str, str], artifact: dict[str, str]) -> str:
    with pytest.raises(SetupError) as caught:
        check_versions(installed, artifact)
    return str(caught.value)


def without(name: str) -> dict[str, str]:
    return {each: version for each, version in INSTALLED.items() if each != name}


def test_the_container_with_an_artifact_of_its_own_is_accepted() -> None:
    check_versions(INSTALLED, ARTIFACT)


def test_the_table_has_the_release_of_the_sdk_that_optimum_neuron_asks_for() -> None:
    assert PINS["neuronx-cc"] == "2.21.33363.0"
    assert PINS["torch-neuronx"].startswith(f"{PINS['torch']}.")
    assert PINS["optimum-neuron"].startswith("0.4.")
    assert PINS["aws-neuronx-runtime-lib"] == "2.28.23.0-dd5879008"
    assert {**SYSTEM_PINS, **PYTHON_PINS, "python": "3.11"} == PINS
    assert all(re.fullmatch(r"[0-9.]+(-[0-9a-f]+)?", version) for version in PINS.values())


@pytest.mark.parametrize("name", sorted([*PYTHON_PINS, "python"]))
def test_another_version_is_refused_with_the_pin_what_is_installed_and_the_container(name: str) -> None:
    text = refusal(INSTALLED | {name: "1.99.0"}, ARTIFACT)
    assert f"`{name}` must be {PINS[name]}, and 1.99.0 is installed" in text
    assert text.count("must be") == 1
    assert f"The container of `{CONTAINER}` has them all" in text


@pytest.mark.parametrize("name", sorted(PYTHON_PINS))
def test_a_package_that_is_not_there_is_named(name: str) -> None:
    assert f"`{name}` must be {PINS[name]}, and is not installed" in refusal(without(name), ARTIFACT)


def test_all_differences_are_told_at_once() -> None:
    text = refusal(without("libneuronxla") | {"torch": "2.7.0", "python": "3.12.1"}, ARTIFACT)
    assert [f"`{name}`" in text for name in ("python", "libneuronxla", "torch", "numpy")] == [True, True, True, False]


@pytest.mark.parametrize(
    ("name", "version"),
    [("numpy", "1.26.2"), ("transformers", "4.57.1"), ("python", "3.11.0"), ("torch", "2.8.0+cu128")],
)
def test_a_patch_release_and_a_local_label_make_no_difference_where_nothing_depends_on_them(
    name: str, version: str
) -> None:
    check_versions(INSTALLED | {name: version}, ARTIFACT)


@pytest.mark.parametrize(
    ("name", "version"), [("numpy", "1.27.0"), ("transformers", "4.58.0"), ("neuronx-cc", "2.21.33364.0")]
)
def test_anything_more_does(name: str, version: str) -> None:
    assert f"`{name}` must be" in refusal(INSTALLED | {name: version}, ARTIFACT | {name: version})


@pytest.mark.parametrize(
    ("name", "version"),
    [("optimum-neuron", "0.4.4"), ("neuronx-cc", "2.21.33363.0"), ("neuronx-cc", "2.21.33363.0+00000000")],
)
def test_an_artifact_loads_only_under_the_very_versions_that_made_it(name: str, version: str) -> None:
    text = refusal(INSTALLED, ARTIFACT | {name: version})
    assert text.startswith(f"the artifact was made with `{name}` {version} where {INSTALLED[name]} is installed")
    assert f"container of `{CONTAINER}`" in text


def test_another_0_4_release_serves_the_artifacts_that_it_made() -> None:
    newer = {"optimum-neuron": "0.4.6.dev4"}
    check_versions(INSTALLED | newer, ARTIFACT | newer)


def test_the_versions_of_an_artifact_are_those_of_its_neuron_config() -> None:
    config = {"optimum_neuron_version": "0.4.5", "neuronxcc_version": COMPILER, "batch_size": 4}
    assert artifact_versions(config) == ARTIFACT
    with pytest.raises(SetupError, match="no `neuronxcc_version`"):
        artifact_versions({"optimum_neuron_version": "0.4.5"})
    with pytest.raises(SetupError, match="no `optimum_neuron_version`"):
        artifact_versions(config | {"optimum_neuron_version": None})


def test_what_is_installed_is_read_from_metadata_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.8.0+cpu", "neuronx-cc": COMPILER}

    def version(name: str) -> str:
        if name in installed:
            return installed[name]
        raise PackageNotFoundError(name)

    before = set(sys.modules)
    monkeypatch.setattr("ranvier.targets.nxd.versions.version", version)
    assert installed_versions() == installed | {"python": ".".join(map(str, sys.version_info[:3]))}
    assert not {"torch", "neuronxcc", "optimum"} & (set(sys.modules) - before)
