"""The container files, and the programs beside them that have no ending in their names."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def load_program(path: Path) -> ModuleType:
    """The module that a Python program without the ending `.py` is; nothing is left beside it."""
    name = path.name.replace("-", "_")
    spec = spec_from_loader(name, SourceFileLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


prove_dockerfile = load_program(ROOT / "scripts/prove-dockerfile")
health = load_program(DOCKER / "health")
