"""Taking out of a report what nobody wants to paste: paths, names of host and user, secrets of the environment."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Mapping

_PATH = re.compile(r"(?<![\w.<>])(?:~|\.{1,2})?/(?:[^\s/:,;'\"`()<>\[\]]+/)*[^\s/:,;'\"`()<>\[\]]*")
_PUBLIC = re.compile(r"/(?:dev/neuron|sys/|proc/|opt/aws/)")
"""The same on every host: they are what a report is about."""
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|KEY", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\w.])[1-9]\d{1,2}(?:\.\d{1,3}){3}(?![\w.])|\bip-\d+-\d+-\d+-\d+[\w.-]*")
"""Versions have four numbers too, but begin with one digit."""
_COMMON = frozenset({"localhost", "root", "neuron", "ranvier", "user", "model", "host", "jax", "python"})
_SHORTEST = 3


def private_words(environ: Mapping[str, str]) -> dict[str, str]:
    """What to replace wherever it stands, and by what."""
    words = {socket.gethostname(): "<host>", _user(): "<user>"}
    kept = {word: name for word, name in words.items() if len(word) >= _SHORTEST and word.lower() not in _COMMON}
    secrets = {value: "<secret>" for name, value in environ.items() if _SECRET.search(name) and len(value) > 5}
    return {**kept, **secrets}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run as a number without a name.
        return ""


def scrubbed(text: str, words: Mapping[str, str]) -> str:
    """The text without them. Files of the driver and the devices' own stay."""
    text = _PATH.sub(_without_path, text)
    text = _ADDRESS.sub("<address>", text)
    for word, name in words.items():
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", name, text)
    return text


def _without_path(match: re.Match[str]) -> str:
    path = match[0]
    return path if _PUBLIC.match(path) or len(path.strip("./~")) == 0 else "<path>"
