"""What programs run on. Each target stands alone behind the protocol in `base`."""

from ranvier.targets.base import Programs

__all__ = ["Programs"]
