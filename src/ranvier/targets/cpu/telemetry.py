"""Importing OpenVINO sends a message to its makers unless its user has opted out. Ranvier never reports anything.

Without the package that would send it OpenVINO takes a stub of its own. This module must be imported before OpenVINO.
"""

from __future__ import annotations

import sys

# None makes its import fail; where somebody has it loaded already, that is theirs.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
