"""The report: Markdown to paste into an issue."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence

from ranvier import __version__
from ranvier.neuron_host import NeuronHost
from ranvier.selfcheck.outcome import Outcome
from ranvier.selfcheck.privacy import scrubbed

_PACKAGES = ("jax", "jaxlib", "jax-neuronx", "libneuronxla", "neuronx-cc", "openvino", "numpy")


def is_passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing failed."""
    return all(outcome.status != "failed" for outcome in outcomes)


def markdown(outcomes: Sequence[Outcome], host: NeuronHost | None, words: Mapping[str, str], *, emulate: bool) -> str:
    """The whole report; `words` are those of `privacy.private_words`."""
    blocks = [
        "## ranvier self-check",
        _versions(host),
        _summary(outcomes),
        *(_details(outcome, words) for outcome in outcomes),
        _verdict(outcomes, emulate=emulate),
    ]
    return "\n\n".join(blocks) + "\n"


def _versions(host: NeuronHost | None) -> str:
    found = {"ranvier": __version__, "python": platform.python_version()}
    found |= {name: _version(name) for name in _PACKAGES}
    found["driver"] = (host and host.driver_version) or "not found"
    found["runtime"] = (host and host.runtime_version) or "not found"
    found["instance"] = (host and host.instance_type) or "unknown"
    found["system"] = f"{platform.system()} {platform.machine()}"
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {version} |" for name, version in found.items())])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _summary(outcomes: Sequence[Outcome]) -> str:
    rows = [f"| {each.name} | {_status(each)} | {each.seconds:.1f} |" for each in outcomes]
    return "\n".join(["| step | | seconds |", "| --- | --- | --- |", *rows])


def _status(outcome: Outcome) -> str:
    return "**failed**" if outcome.status == "failed" else outcome.status


def _details(outcome: Outcome, words: Mapping[str, str]) -> str:
    # Nothing that a library wrote may end the block.
    lines = [scrubbed(line, words).replace("```", "'''") for line in outcome.lines]
    return "\n".join([f"### {outcome.name}: {outcome.status}", "```text", *lines, "```"])


def _verdict(outcomes: Sequence[Outcome], *, emulate: bool) -> str:
    failed = [outcome.name for outcome in outcomes if outcome.status == "failed"]
    left = [outcome.name for outcome in outcomes if outcome.status == "skipped"]
    skipped = f" Skipped: {', '.join(left)}." if left else ""
    if failed:
        return f"**Verdict: failed** ({', '.join(failed)}).{skipped}"
    if emulate:
        return f"**Verdict: passed, emulated**: the programs are right, and nothing is said about a device.{skipped}"
    return f"**Verdict: passed.**{skipped}"
