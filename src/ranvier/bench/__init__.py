"""Measuring: bare steps of a target, and the same load over HTTP, side by side in one run."""
