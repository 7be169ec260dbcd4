"""The HTTP side: wire types, routes, and the one table from errors to statuses."""

from ranvier.api.app import build_app
from ranvier.api.context import ApiOptions

__all__ = ["ApiOptions", "build_app"]
