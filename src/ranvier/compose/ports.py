"""The server's TCP port."""

from __future__ import annotations

import socket

from ranvier.config import LauncherConfig
from ranvier.errors import OptionError


def open_port(config: LauncherConfig) -> socket.socket:
    """A bound socket, not listening yet. Raises `OptionError` when the port cannot be had."""
    family = socket.AF_INET6 if ":" in config.hostname else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only where it is: 40 ms a reply otherwise.
    server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((config.hostname, config.port))
    except OSError as error:
        server.close()
        raise OptionError(
            f"`port` {config.port} on {config.hostname} cannot be opened: {error.strerror}; choose another `--port`"
        ) from None
    return server
