"""Text to token ids and back: tokenizer, incremental detokenizer, stop strings, tokenizers rebuilt from GGUF.

Before that chat templates, after that reasoning text. The only package that imports `tokenizers` and `jinja2`.
"""

from ranvier.text.chat_template import ChatTemplate, load_chat_template
from ranvier.text.detokenizer import Detokenizer
from ranvier.text.gguf import end_token_ids_from_gguf, tokenizer_config_from_gguf, tokenizer_json_from_gguf
from ranvier.text.json_file import read_json_object
from ranvier.text.reasoning import ReasoningMarkers, ReasoningSplitter, is_open_at_end
from ranvier.text.stop import StopMatcher
from ranvier.text.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "ReasoningMarkers",
    "ReasoningSplitter",
    "StopMatcher",
    "Tokenizer",
    "end_token_ids_from_gguf",
    "is_open_at_end",
    "load_chat_template",
    "read_json_object",
    "tokenizer_config_from_gguf",
    "tokenizer_json_from_gguf",
]
