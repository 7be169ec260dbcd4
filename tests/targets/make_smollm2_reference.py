"""Write `smollm2_greedy.json`: greedy continuations of SmolLM2 by the plain NumPy model, in float32.

python tests/targets/make_smollm2_reference.py        takes about two minutes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from llama_reference import logits  # found through the line above
from ranvier.artifacts import locate
from ranvier.models.gguf_file import GgufCheckpoint
from ranvier.models.weights import dequantize
from smollm2 import MODEL_ID, tokenizer
from tiny_checkpoints import TinyModel

PROMPTS = ("What is Deep Learning?", "The capital of France is", "def fibonacci(n):\n")
NUM_TOKENS = 20
SMOLLM2 = TinyModel(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rope_theta=100000.0,
)


def main() -> None:
    checkpoint = GgufCheckpoint(locate(MODEL_ID).path)
    weights = {name: dequantize(checkpoint.read(name)) for name in checkpoint.names()}
    text = tokenizer()
    references = []
    for prompt in PROMPTS:
        ids = text.encode(prompt)
        prompt_ids = list(ids)
        for _ in range(NUM_TOKENS):
            ids.append(int(logits(SMOLLM2, weights, ids)[-1].argmax()))
        output = ids[len(prompt_ids) :]
        text_of_output = text.decode(output, skip_special_tokens=True)
        references.append({"prompt": prompt, "prompt_ids": prompt_ids, "output_ids": output, "text": text_of_output})
    path = Path(__file__).with_name("smollm2_greedy.json")
    path.write_text(json.dumps(references, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
