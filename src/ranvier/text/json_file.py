"""JSON files that lie beside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ranvier.errors import ModelError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is no such file. Raises ModelError that names a damaged one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is needed")
    return value
