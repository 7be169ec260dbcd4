"""Choosing tokens from logits on the host. Imports nothing but numpy and `ranvier.core`."""

from ranvier.sampling.host import HostSampler
from ranvier.sampling.random import uniform

__all__ = ["HostSampler", "uniform"]
