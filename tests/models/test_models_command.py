"""`ranvier models` prints every family, and loads no device library for it."""

from __future__ import annotations

import subprocess
import sys

from ranvier.models import refused_families, supported_families

_RUN = """
import sys
from ranvier.launcher.main import ranvier
sys.argv = ["ranvier", "models", *sys.argv[1:]]
try:
    ranvier()
finally:
    print("loaded:", sorted({"openvino", "gguf", "tokenizers", "starlette"} & set(sys.modules)), file=sys.stderr)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True)


def test_every_family_is_listed_supported_or_refused() -> None:
    done = run()
    first_cells = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("|")]

    assert done.returncode == 0
    assert [cell for cell in first_cells if cell in supported_families()] == list(supported_families())
    assert [cell for cell in first_cells if cell in refused_families()] == sorted(refused_families())
    assert all(reason in done.stdout for reason in refused_families().values())
    assert "| llama | Llama 2, 3, 3.1-3.3, SmolLM2, TinyLlama | float32, bfloat16, int8, int4 | yes |" in done.stdout
    assert done.stderr == "loaded: []\n"


def test_arguments_are_refused() -> None:
    done = run("llama")
    assert done.returncode == 1
    assert "`ranvier models` takes no arguments. Given: llama" in done.stderr
