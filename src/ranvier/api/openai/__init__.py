"""The OpenAI API: chat and completions."""

from ranvier.api.openai.chat import ChatRoutes
from ranvier.api.openai.completions import CompletionRoutes

__all__ = ["ChatRoutes", "CompletionRoutes"]
