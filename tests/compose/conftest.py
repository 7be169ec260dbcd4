"""Fixtures of the tests of the wiring."""

from nxd_configs import own_places

__all__ = ["own_places"]
