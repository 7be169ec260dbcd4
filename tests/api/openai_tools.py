"""Tools, and what a model writes to call them."""

from __future__ import annotations

from typing import Any

from openai_requests import CHAT, Played, chat, play, script

from serving import Script, call_text

DECLINED = script(call_text("no_tool"))


def tool(name: str, schema: Any = None, **fields: Any) -> dict[str, Any]:
    """A tool; by default it takes a `city`."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}} if schema is None else schema
    return {"type": "function", "function": {"name": name, "parameters": schema, **fields}}


WEATHER, TIME = tool("weather"), tool("time", {"type": "object", "properties": {}})
PARIS = script(call_text("weather", city="Paris"))


def ask(*scripts: Script, tools: Any = (WEATHER, TIME), **fields: Any) -> Played:
    """A chat with tools; by default the model calls `weather`."""
    return play(CHAT, chat(tools=list(tools), **fields), *(scripts or (PARIS,)))
