"""Ranvier serves language models with the API of Text Generation Inference."""

__version__ = "0.1.0"
