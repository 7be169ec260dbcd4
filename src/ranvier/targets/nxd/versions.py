"""The one table of versions that optimum-neuron artifacts run on, and the check against what is installed.

The table is the column of SDK 2.26.1 in AWS's release notes with what optimum-neuron 0.4.5 asks for; optimum-neuron
0.4.x has no other. An artifact is bound more tightly: it loads only under the very optimum-neuron and compiler that
made it. The check reads package metadata and imports nothing, for importing these packages takes long and changes the
environment. No name here has been tried on a Neuron host.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

from ranvier.errors import SetupError

CONTAINER = "docker/Dockerfile.nxd"
"""The recipe of the container that has these versions."""

SDK = "2.26.1"
"""The Neuron SDK release that they belong to."""

PYTHON = "3.11"
"""optimum-neuron 0.4.5 runs on 3.10 and 3.11; the container has this one."""

SYSTEM_PINS: Mapping[str, str] = MappingProxyType(
    {
        "aws-neuronx-collectives": "2.28.27.0-bc30ece58",
        "aws-neuronx-runtime-lib": "2.28.23.0-dd5879008",
        "aws-neuronx-tools": "2.26.14.0",
    }
)
"""Debian packages of the container."""

PYTHON_PINS: Mapping[str, str] = MappingProxyType(
    {
        "libneuronxla": "2.2.12677.0",
        "neuronx-cc": "2.21.33363.0",
        "neuronx-distributed": "0.15.22404",
        "numpy": "1.26.4",
        "optimum-neuron": "0.4.5",
        "torch": "2.8.0",
        "torch-neuronx": "2.8.0.2.10.16998",
        "transformers": "4.57.6",
    }
)
"""Python distributions of the container, without local version labels (`+…`), which builds add."""

PINS: Mapping[str, str] = MappingProxyType({"python": PYTHON, **SYSTEM_PINS, **PYTHON_PINS})
"""All of them, by the name under which each is installed."""

_COMPARED: Mapping[str, int] = MappingProxyType({"numpy": 2, "optimum-neuron": 2, "python": 2, "transformers": 2})
"""Parts of the version that have to agree, where another patch release serves as well; for all others it is every part.

An artifact's own optimum-neuron is compared whole.
"""

_ARTIFACT_KEYS = {"optimum-neuron": "optimum_neuron_version", "neuronx-cc": "neuronxcc_version"}
"""Fields of neuron_config.json that optimum-neuron compares when it loads one."""


def installed_versions() -> dict[str, str]:
    """Of the Python distributions in `PINS` those that are installed, and `python`, from their metadata alone."""
    found = {"python": platform.python_version()}
    for name in PYTHON_PINS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def artifact_versions(neuron_config: Mapping[str, object]) -> dict[str, str]:
    """The versions that an artifact was made with, from its neuron_config.json. Raises `SetupError` without them."""
    found = {}
    for name, key in _ARTIFACT_KEYS.items():
        value = neuron_config.get(key)
        if not isinstance(value, str) or not value:
            raise SetupError(f"neuron_config.json has no `{key}`: it was not written by optimum-neuron 0.4")
        found[name] = value
    return found


def check_versions(installed: Mapping[str, str], artifact: Mapping[str, str]) -> None:
    """Compare before anything heavy is imported. Raises `SetupError` that lists every difference.

    * `installed`: as `installed_versions` gives it.
    * `artifact`: as `artifact_versions` gives it; these have to be the installed ones to the last letter.
    """
    wrong = [_mismatch(name, PYTHON_PINS.get(name, PYTHON), installed.get(name)) for name in ("python", *PYTHON_PINS)]
    wrong = [text for text in wrong if text]
    if wrong:
        raise SetupError(
            f"target nxd runs on the versions of Neuron SDK {SDK} that optimum-neuron 0.4 was built for: "
            f"{'; '.join(wrong)}. The container of `{CONTAINER}` has them all"
        )
    made = [
        f"`{name}` {wanted} where {installed.get(name, 'none')} is installed"
        for name, wanted in artifact.items()
        if installed.get(name) != wanted
    ]
    if made:
        raise SetupError(
            f"the artifact was made with {'; '.join(made)}, and loads with the very versions that made it: export it "
            f"anew in the container of `{CONTAINER}`, or install those"
        )


def _mismatch(name: str, wanted: str, found: str | None) -> str:
    """What differs; empty if nothing that matters does."""
    if found is None:
        return f"`{name}` must be {wanted}, and is not installed"
    count = _COMPARED.get(name)
    is_same = found.partition("+")[0].split(".")[:count] == wanted.split(".")[:count]
    return "" if is_same else f"`{name}` must be {wanted}, and {found} is installed"
