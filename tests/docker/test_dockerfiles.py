"""The container files: their versions are those of one table each, and they promise hosts the same things.

The CPU file's steps are run by `scripts/prove-dockerfile`; the others need AWS's package repositories.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from dockerfiles import DOCKER, ROOT, prove_dockerfile

from ranvier.targets.nxd.versions import PYTHON as NXD_PYTHON
from ranvier.targets.nxd.versions import PYTHON_PINS, SYSTEM_PINS

FILES = ("Dockerfile", "Dockerfile.neuron", "Dockerfile.nxd")
NEURON = json.loads((DOCKER / "pins.json").read_text())
TABLES: Mapping[str, tuple[str, dict[str, str]]] = {
    "Dockerfile.neuron": (NEURON["python"], {**NEURON["system"], **NEURON["packages"]}),
    "Dockerfile.nxd": (NXD_PYTHON, {**SYSTEM_PINS, **PYTHON_PINS}),
}


def instructions(file: str, name: str) -> list[str]:
    """The texts of all instructions of one kind."""
    found = prove_dockerfile.read_dockerfile((DOCKER / file).read_text())
    return [each.text for each in found if each.name == name]


def arguments(file: str) -> dict[str, str]:
    return dict(text.split("=", 1) for text in instructions(file, "ARG"))


def variable(package: str) -> str:
    return package.upper().replace("-", "_") + "_VERSION"


def environ(file: str) -> dict[str, str]:
    return {name: value for text in instructions(file, "ENV") for name, value in prove_dockerfile.pairs(text).items()}


@pytest.mark.parametrize("file", TABLES)
def test_versions_are_exactly_those_of_the_table(file: str) -> None:
    versions = {name: value for name, value in arguments(file).items() if name.endswith("_VERSION")}
    assert versions == {variable(package): version for package, version in TABLES[file][1].items()}


@pytest.mark.parametrize("file", TABLES)
def test_every_package_of_the_table_is_installed_in_its_version(file: str) -> None:
    words = {word for text in instructions(file, "RUN") for word in shlex.split(text)}
    for package in TABLES[file][1]:
        separator = "=" if package.startswith("aws-") else "=="
        pinned = f"{package}{separator}${{{variable(package)}}}"
        assert pinned in words or f"{pinned}*" in words


@pytest.mark.parametrize("file", TABLES)
def test_no_neuron_package_comes_without_a_version(file: str) -> None:
    words = [word for text in instructions(file, "RUN") for word in shlex.split(text) if "/" not in word]
    named = [word for word in words if re.match(r"(aws-neuron|neuron|libneuron|jax|torch|optimum|nki)", word)]
    assert named and all("=" in word for word in named)
    for word in named:
        assert re.split("=+", word)[0] in TABLES[file][1]


@pytest.mark.parametrize("file", TABLES)
def test_the_python_is_the_tables(file: str) -> None:
    pythons = re.findall(r"python3\.\d+", (DOCKER / file).read_text())
    assert set(pythons) == {f"python{TABLES[file][0]}"}


@pytest.mark.parametrize("file", FILES)
def test_every_argument_is_used(file: str) -> None:
    runs = " ".join(instructions(file, "RUN"))
    for name in arguments(file):
        assert f"${{{name}" in runs


@pytest.mark.parametrize("file", FILES)
def test_stages_begin_with_a_release_by_name_or_an_earlier_stage(file: str) -> None:
    earlier: set[str] = set()
    for text in instructions(file, "FROM"):
        base, _, name = text.partition(" AS ")
        assert base in earlier or base in ("debian:bookworm-slim", "ubuntu:24.04")
        earlier.add(name)


@pytest.mark.parametrize("file", FILES)
def test_hosts_find_what_they_expect(file: str) -> None:
    assert instructions(file, "ENTRYPOINT") == ['["/usr/local/bin/entrypoint"]']
    assert instructions(file, "EXPOSE") == ["80 8080"]
    assert instructions(file, "VOLUME") == ["/data"]
    assert environ(file)["PORT"] == "80"
    (labels,) = instructions(file, "LABEL")
    assert prove_dockerfile.pairs(labels)["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    (check,) = instructions(file, "HEALTHCHECK")
    assert check.endswith('CMD ["python3", "/usr/local/bin/health"]')


@pytest.mark.parametrize("file", FILES)
def test_the_user_that_the_entry_point_changes_to_exists_and_owns_the_volume(file: str) -> None:
    runs = " ".join(instructions(file, "RUN"))
    assert "useradd --uid 10001 --user-group --create-home ranvier" in runs
    assert "install --directory --owner=ranvier --group=ranvier /data" in runs


@pytest.mark.parametrize(("file", "target"), [("Dockerfile.neuron", "neuron"), ("Dockerfile.nxd", "nxd")])
def test_neuron_images_find_the_sdk_and_serve_their_target(file: str, target: str) -> None:
    variables = environ(file)
    assert variables["TARGET"] == target
    assert variables["LD_LIBRARY_PATH"] == "/opt/aws/neuron/lib"
    assert variables["PATH"].startswith("/opt/ranvier/bin:/opt/aws/neuron/bin:")


@pytest.mark.parametrize("file", FILES)
def test_what_is_copied_is_in_the_build_context(file: str) -> None:
    context = [path.as_posix() for path in prove_dockerfile.context_files(ROOT)]
    for text in instructions(file, "COPY"):
        *sources, _ = (word for word in text.split() if not word.startswith("--"))
        for source in sources if "--from=" not in text else ():
            assert any(path == source or path.startswith(source + "/") for path in context)


def test_the_build_context_holds_the_package_and_nothing_else() -> None:
    context = {path.as_posix() for path in prove_dockerfile.context_files(ROOT)}
    outside = {path for path in context if not path.startswith("src/ranvier/")}
    assert outside == {"LICENSE", "README.md", "pyproject.toml", "docker/entrypoint", "docker/health"}
    assert "src/ranvier/launcher/main.py" in context
    assert not [path for path in context if "__pycache__" in path or path.endswith((".pyc", ".gguf", ".safetensors"))]


@pytest.mark.parametrize("name", ["docker/entrypoint", "docker/health", "scripts/prove-dockerfile"])
def test_programs_may_be_executed(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert Path(ROOT / name).read_text().startswith("#!/")
