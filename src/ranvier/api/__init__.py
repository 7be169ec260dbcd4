"""The HTTP side: wire types, routes, and the one table from errors to statuses."""

from ranvier.api.app import ApiOptions, build_app

__all__ = ["ApiOptions", "build_app"]
