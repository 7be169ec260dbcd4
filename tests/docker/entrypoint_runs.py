"""Running `docker/entrypoint` with a launcher that prints what it got, in a file system made for the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
from dockerfiles import DOCKER

LAUNCHER = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environ": dict(os.environ), "pid": os.getpid()}}))
"""
# `id ranvier` succeeds in images only, and tests may run as root.
ID = """#!/bin/sh
if [ "${1:-}" = -u ]; then echo "${STUB_UID:-1000}"; else [ -n "${STUB_USER:-}" ]; fi
"""
SETPRIV = """#!/bin/sh
[ -z "${STUB_NO_SETUID:-}" ] || exit 1
case "$*" in *inh-caps*) [ -z "${STUB_NO_CAPABILITY:-}" ] || exit 1 ;; esac
while [ "${1#--}" != "$1" ]; do shift; done
[ "$1" = true ] || [ -z "${STUB_CANNOT:-}" ] || [ "$1 $2 $3" != "test -w $STUB_CANNOT" ] || exit 1
STUB_SETPRIV=yes exec "$@"
"""


@dataclass(frozen=True)
class Started:
    """What the launcher was started with, what the script said, and the process number before and in the launcher."""

    arguments: list[str]
    environ: Mapping[str, str]
    said: str
    pids: tuple[int, int]


Start: TypeAlias = Callable[..., Started]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's file system with an empty volume."""
    place = tmp_path / "root"
    (place / "data").mkdir(parents=True)
    (place / "tmp").mkdir()
    return place


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Start:
    """Run the entry point with arguments and variables."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in (("text-generation-launcher", LAUNCHER), ("id", ID), ("setpriv", SETPRIV)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)

    def run(*arguments: str, **environ: str) -> Started:
        base = {"PATH": f"{stubs}:/usr/bin:/bin", "RANVIER_CONTAINER_ROOT": str(root), "PORT": "80"}
        command = [str(DOCKER / "entrypoint"), *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env={**base, **environ}, stdout=pipe, stderr=pipe, text=True) as process:
            out, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        printed = json.loads(out)
        return Started(printed["arguments"], printed["environ"], said, (process.pid, printed["pid"]))

    return run
