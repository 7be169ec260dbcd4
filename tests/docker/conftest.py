"""Fixtures of the container tests."""

from entrypoint_runs import root, start

__all__ = ["root", "start"]
