"""JAX for tests, or a skip with its reason where it is not installed.

Programs of tests run a few times only: what optimizing them takes is never earned back.
"""

from __future__ import annotations

import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install 'jax==0.10.*'")
jax.config.update("jax_disable_most_optimizations", True)

__all__ = ["jax"]
