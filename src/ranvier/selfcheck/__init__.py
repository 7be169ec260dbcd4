"""`ranvier self-check`: what only a Neuron device can show, asked of the one that is there; a report to paste."""

from ranvier.selfcheck.command import self_check

__all__ = ["self_check"]
