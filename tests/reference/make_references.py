"""Write or check `<case>.npz`: what Hugging Face `transformers` computes in float32 for each case of `tiny_families`.

    python tests/reference/make_references.py            writes all cases, or those named
    python tests/reference/make_references.py --check    compares with what is stored instead (`make test-reference`)

Needs torch, transformers, safetensors and numpy; not Ranvier.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny_families as tiny  # found through the line above

SMALLEST_MARGIN = 2e-3
"""Between the best and the second token of each greedy step, so that rounding cannot decide."""
TOLERANCE = 2e-5
"""Between two computations of one reference; other processors add in another order."""


def main(arguments: list[str]) -> int:
    # The tensors are so small that sharing the work costs more than it saves.
    torch.set_num_threads(1)
    is_check = "--check" in arguments
    failures = 0
    for case in [name for name in arguments if name != "--check"] or list(tiny.CASES):
        if is_check:
            failures += not check(case)
        else:
            write(case)
    return 1 if failures else 0


def check(case: str) -> bool:
    stored = tiny.reference(case)
    with tempfile.TemporaryDirectory() as folder:
        shapes = shapes_of(case, Path(folder))
        logits, greedy, _ = computed(case, Path(folder), shapes, stored.seed)
    error = float(np.abs(logits - stored.logits).max())
    is_same = shapes == stored.shapes and greedy == stored.greedy and error <= TOLERANCE
    print(f"{case:20} {'same' if is_same else 'DIFFERS'}, largest difference {error:.1e}")
    return is_same


def write(case: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shapes = shapes_of(case, Path(folder))
        for seed in range(30):
            logits, greedy, margin = computed(case, Path(folder), shapes, seed)
            if margin > SMALLEST_MARGIN and len(set(greedy)) > 4:
                break
    np.savez_compressed(
        tiny.REFERENCES / f"{case}.npz",
        seed=np.int64(seed),
        shapes=np.array(json.dumps(shapes)),
        logits=logits,
        greedy=np.array(greedy, np.int32),
    )
    print(f"{case:20} seed {seed}, margin {margin:.4f}, logits of size {np.abs(logits).mean():.2f}, {greedy[:8]}")


def shapes_of(case: str, folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a saved checkpoint has: the tied head is not among them."""
    (folder / "config.json").write_text(json.dumps(tiny.config(case)), encoding="utf-8")
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    parameters = dict(model.named_parameters(remove_duplicate=True))
    return {tiny.saved_name(case, name): tuple(value.shape) for name, value in sorted(parameters.items())}


def computed(
    case: str, folder: Path, shapes: dict[str, tuple[int, ...]], seed: int
) -> tuple[tiny.FloatArray, list[int], float]:
    """Logits of `IDS`, greedy tokens after the prompt, and the smallest margin among the greedy steps."""
    weights = tiny.draw(case, shapes, seed)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    model.eval()
    logits = logits_of(model, tiny.IDS)
    ids, margin = tiny.IDS[: tiny.NUM_PROMPT], np.inf
    for _ in range(tiny.NUM_GREEDY):
        last = logits_of(model, ids)[-1]
        second, first = np.sort(last)[-2:]
        margin = min(margin, float(first - second))
        ids = [*ids, int(last.argmax())]
    return logits, ids[tiny.NUM_PROMPT :], margin


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: list[int]) -> tiny.FloatArray:
    # Without a cache: each step computes the whole sequence anew.
    return model(torch.tensor([ids]), use_cache=False).logits[0].numpy().astype(np.float32)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
