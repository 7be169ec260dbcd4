"""Write or check `config_defaults.json`: what the config classes of transformers add to a config.json.

    python tests/reference/make_optimum_defaults.py            writes the file
    python tests/reference/make_optimum_defaults.py --check    compares with what is stored instead

Needs torch and transformers 4.57.6 (what optimum-neuron 0.4.5 is installed with); not Ranvier.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import transformers
from transformers import AutoConfig, PretrainedConfig

FAMILIES = ("granite", "llama", "llama4_text", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3")
"""The causal families of optimum-neuron 0.4.5."""
TARGET = Path(__file__).parents[2] / "src" / "ranvier" / "artifacts" / "optimum" / "config_defaults.json"


def family(model_type: str, base: dict[str, object]) -> dict[str, object]:
    kind = type(AutoConfig.for_model(model_type))
    made = json.loads(json.dumps(kind().to_dict()))
    arguments = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {
        "arguments": {name: value for name, value in arguments.items() if name in made},
        "consumed": {name: value for name, value in arguments.items() if name not in made},
        "fixed": {name: value for name, value in made.items() if name not in arguments and name not in base},
        "unlike_base": {name: value for name, value in made.items() if name in base and value != base[name]},
    }


def defaults() -> str:
    base = json.loads(json.dumps(PretrainedConfig().to_dict()))
    table = {
        "transformers": transformers.__version__,
        "base": base,
        "families": {model_type: family(model_type, base) for model_type in FAMILIES},
    }
    return json.dumps(table, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        TARGET.write_text(defaults(), encoding="utf-8")
        return 0
    is_same = TARGET.read_text(encoding="utf-8") == defaults()
    print("same" if is_same else "DIFFERS")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
