"""What an artifact for Neuron devices was made for, beside what it is to be served with: who decides, who refuses."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_requests import neuron_manifest
from test_settled_limits import MANIFEST, config

from fake_neuron import neuron_root, put
from ranvier.artifacts import Artifact, Compiled
from ranvier.compose.neuron import cache_of, check_compiled, load_neuron_programs
from ranvier.compose.plan import settle_limits, with_target
from ranvier.core import Limits
from ranvier.errors import ArtifactError, OptionError
from ranvier.neuron_host import discover

XLA = "xla-cpu 0.10"


@pytest.fixture(autouse=True)
def emulating_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs JAX, nor that it is installed."""
    monkeypatch.setattr("ranvier.compose.neuron.xla_version", lambda: XLA)


def compiled_for(**changes: Any) -> Compiled:
    values: dict[str, Any] = {
        "platform": "cpu",
        "compiler": XLA,
        "target": os.uname().machine,
        "lnc": 1,
        "seconds": {},
    }
    return Compiled(**values | changes)


OPTIONS = neuron_manifest(num_cores=2, auto_cast_type="fp32")
MADE = replace(MANIFEST, target="neuron", quantize="auto", dtype="float32", kv_cache_dtype="auto", neuron=OPTIONS)


@pytest.mark.parametrize("argv", [(), ("--num-cores", "2", "--auto-cast-type", "fp32", "--max-batch-size", "8")])
def test_the_artifact_decides_and_options_may_agree(argv: tuple[str, ...]) -> None:
    assert settle_limits(config(*argv), MADE).batch_size == 8


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--num-cores", "4"), "`num_cores` is 4 by flag `--num-cores`, but the artifact was exported for 2; "),
        (
            ("--auto-cast-type", "bf16"),
            "`auto_cast_type` is bf16 by flag `--auto-cast-type`, but the artifact was exported for fp32; ",
        ),
        (("--max-batch-size", "4"), "`max_batch_size` is 4 by flag `--max-batch-size`, but the artifact was "),
        (("--dtype", "bfloat16"), "`dtype` is bfloat16 by flag `--dtype`, but the artifact was exported for float32; "),
    ],
)
def test_options_that_differ_from_the_artifact_are_refused_by_name(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        settle_limits(config(*argv), MADE)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("leave the option out or export the model again")


def test_the_artifact_decides_the_target_unless_another_is_asked_for(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, MADE)
    assert with_target(config(), artifact).target == "neuron"
    assert with_target(config("--target", "neuron"), artifact).target == "neuron"
    for given, source in (
        (config("--target", "cpu"), "flag `--target`"),
        (config(TARGET="cpu"), "environment variable `TARGET`"),
    ):
        with pytest.raises(ArtifactError) as caught:
            with_target(given, artifact)
        assert str(caught.value) == (
            f"`target` is cpu by {source}, but the artifact was exported for neuron; "
            "leave the option out or export the model again"
        )
    with pytest.raises(ArtifactError, match="`target` is neuron by flag `--target`, but the artifact was exported for"):
        with_target(config("--target", "neuron"), Artifact(tmp_path, MANIFEST))


@pytest.mark.parametrize(
    ("field", "value", "here"),
    [
        ("compiler", "xla-cpu 0.1", XLA),
        ("target", "riscv", os.uname().machine),
        ("lnc", 2, "1"),
    ],
)
def test_another_processor_or_compiler_is_refused_with_the_field(field: str, value: Any, here: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_compiled(compiled_for(**{field: value}), None)
    assert str(caught.value) == (
        f"`{field}` is {here} here, but the artifact's programs were compiled for {value}; "
        "export the model again on such a host, or serve it where that fits"
    )


def test_the_same_processor_and_compiler_are_taken_and_programs_of_devices_compiled_anew() -> None:
    check_compiled(compiled_for(), None)
    check_compiled(compiled_for(platform="neuron", compiler="neuronx-cc 2.21", target="trn1"), None)


def test_programs_that_were_not_compiled_are_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    check_compiled(None, None)
    assert "were not compiled when it was exported: that is done now, once" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"platform": "cpu"}, "`platform` is neuron here, but the artifact's programs were compiled for cpu"),
        ({"compiler": "neuronx-cc 2.20"}, "`compiler` is neuronx-cc 2.21 here, but the artifact's programs were "),
        ({"target": "trn2"}, "`target` is trn1 here, but the artifact's programs were compiled for trn2"),
        ({"lnc": 2}, "`lnc` is 1 here, but the artifact's programs were compiled for 2"),
    ],
)
@pytest.mark.parametrize("instance", ["inf2.xlarge", "trn1.2xlarge"])
def test_another_device_or_compiler_is_refused_with_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: str, changes: dict[str, Any], message: str | None
) -> None:
    monkeypatch.setattr("ranvier.compose.neuron.neuron_compiler_version", lambda: "neuronx-cc 2.21")
    host = discover(neuron_root(tmp_path, instance, devices=1, cores=2), {})
    made = {"platform": "neuron", "compiler": "neuronx-cc 2.21", "target": "trn1"}
    if message is None:
        check_compiled(compiled_for(**made), host)
        return
    with pytest.raises(ArtifactError) as caught:
        check_compiled(compiled_for(**made | changes), host)
    assert str(caught.value).startswith(message)


def loading(root: Path, manifest: Any = MADE) -> str:
    with pytest.raises((OptionError, ArtifactError)) as caught:
        limits = Limits(batch_size=8, sequence_length=256, max_input_tokens=255, max_batch_prefill_tokens=512)
        load_neuron_programs(config(), Artifact(root, manifest), limits, root)
    return str(caught.value)


def test_without_a_device_an_artifact_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert loading(tmp_path).startswith("`target` neuron needs a Neuron device: ")
    unmapped = neuron_root(tmp_path / "container", "inf2.xlarge", devices=1, cores=2, mapped=())
    assert "the driver lists 1 devices, but /dev has none of them" in loading(unmapped)


def test_an_artifact_for_more_cores_than_the_host_has_is_refused(tmp_path: Path) -> None:
    root = neuron_root(tmp_path, "inf2.xlarge", devices=1, cores=2)
    made = replace(MADE, neuron=replace(OPTIONS, num_cores=4))
    assert loading(root, made).startswith("`num_cores` is 4, but ")


def test_an_artifact_of_another_target_is_refused(tmp_path: Path) -> None:
    assert "was not exported for target neuron; export the model again" in loading(tmp_path, MANIFEST)


@pytest.mark.parametrize(
    ("has_folder", "is_writable", "is_inside"),
    [(True, True, True), (True, False, True), (False, True, True), (False, False, False)],
)
def test_what_a_start_compiles_is_left_in_the_artifact_or_beside_the_store_where_it_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_folder: bool, is_writable: bool, is_inside: bool
) -> None:
    directory = tmp_path / "artifact"
    put(directory, "ranvier.json")
    if has_folder:
        (directory / "compiled").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: is_writable)
    found = cache_of(config("--artifact-cache", str(tmp_path / "store")), Artifact(directory, MADE))
    assert found == (directory / "compiled" if is_inside else tmp_path / "store" / "compiled" / "artifact")
