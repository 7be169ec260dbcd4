"""The text that a model reads before its matrices are rounded to int4."""

from __future__ import annotations

from pathlib import Path


def sample_text() -> str:
    """About 1,000 tokens in several registers and languages; written for this purpose, and not what `eval` reads."""
    return Path(__file__).with_name("sample.txt").read_text(encoding="utf-8")
