"""A served model does not hang on its weights file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: where this fails, the process gets SIGBUS.
_SERVE_AND_TRUNCATE = """
import os, sys
from pathlib import Path
from cpu_helpers import load_tiny, run_logits
from tiny_checkpoints import TinyModel

tmp_path, quantize = Path(sys.argv[1]), sys.argv[2]
programs = load_tiny(tmp_path, TinyModel(hidden_size=128), quantize=quantize)
before = run_logits(programs, (0, list(range(200)), 0))
os.truncate(tmp_path / f"{quantize}-float32.safetensors", 0)
assert (run_logits(programs, (1, list(range(200)), 0)) == before).all()
"""


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_a_weights_file_that_is_cut_short_while_serving_changes_nothing(tmp_path: Path, quantize: str) -> None:
    """The embedding table was read from the mapped file at each step; without the file the process ended by SIGBUS."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", _SERVE_AND_TRUNCATE, str(tmp_path), quantize],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{here}:{here.parent}"},
    )
    assert done.returncode == 0, done.stderr
