"""The port between the halves over a Unix socket."""

from ranvier.ipc.client import RemoteEngineClient
from ranvier.ipc.server import EngineServer

__all__ = ["EngineServer", "RemoteEngineClient"]
