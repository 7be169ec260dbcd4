"""Text to token ids and back: tokenizer, incremental detokenizer, stop strings, tokenizers rebuilt from GGUF.

The only package that imports `tokenizers`.
"""

from ranvier.text.detokenizer import Detokenizer
from ranvier.text.gguf import tokenizer_config_from_gguf, tokenizer_json_from_gguf
from ranvier.text.stop import StopMatcher
from ranvier.text.tokenizer import Tokenizer

__all__ = [
    "Detokenizer",
    "StopMatcher",
    "Tokenizer",
    "tokenizer_config_from_gguf",
    "tokenizer_json_from_gguf",
]
