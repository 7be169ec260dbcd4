"""Commands that documents of Text Generation Inference and of SageMaker show, and what they ask of the launcher.

Everything after the image's name is word for word; the variables are those before it.
"""

from __future__ import annotations

import shlex

NEURON = "ghcr.io/huggingface/text-generation-inference:3.3.5-neuron"
ON_NEURON = "docker run -p 8080:80 -v $(pwd)/data:/data --privileged"
EXAMPLES = [
    (
        "docker run --gpus all --shm-size 1g -p 8080:80 -v $PWD/data:/data "
        "ghcr.io/huggingface/text-generation-inference:3.3.5 --model-id HuggingFaceH4/zephyr-7b-beta",
        {"model_id": "HuggingFaceH4/zephyr-7b-beta", "port": 80},
    ),
    (
        f"docker run -p 8080:80 -v $(pwd)/data:/data --device=/dev/neuron0 -e HF_TOKEN=hf_x {NEURON} --model-id a/b",
        {"model_id": "a/b", "port": 80},
    ),
    (
        f"""{ON_NEURON} -e HF_TOKEN=hf_x -e HF_AUTO_CAST_TYPE="fp16" -e HF_NUM_CORES=2 {NEURON}
        --model-id meta-llama/Meta-Llama-3-8B --max-batch-size 1 --max-input-length 3164 --max-total-tokens 4096""",
        {
            "model_id": "meta-llama/Meta-Llama-3-8B",
            "num_cores": 2,
            "max_batch_size": 1,
            "max_input_tokens": 3164,
            "max_total_tokens": 4096,
        },
    ),
    (f"{ON_NEURON} {NEURON} --model-id /data/exported", {"model_id": "/data/exported", "max_batch_size": None}),
    (
        f"{ON_NEURON} -e HF_TOKEN=hf_x {NEURON} --model-id organization/neuron-model",
        {"model_id": "organization/neuron-model"},
    ),
    (
        f"{ON_NEURON} -e HF_TOKEN=hf_x -e HF_NUM_CORES=2 -e HF_AUTO_CAST_TYPE=bf16 -e MAX_BATCH_SIZE=4 "
        f"-e MAX_INPUT_TOKENS=3686 -e MAX_TOTAL_TOKENS=4096 -e MAX_BATCH_PREFILL_TOKENS=14744 {NEURON} --model-id a/b",
        {"max_batch_size": 4, "max_input_tokens": 3686, "max_total_tokens": 4096, "max_batch_prefill_tokens": 14744},
    ),
    (f"docker run -p 8080:80 -e MODEL_ID=/repository {NEURON}", {"model_id": "/repository", "port": 80}),
]
SAGEMAKER_EXAMPLES = [
    (
        {
            "HF_MODEL_ID": "HuggingFaceH4/zephyr-7b-beta",
            "HF_NUM_CORES": "2",
            "HF_BATCH_SIZE": "4",
            "HF_SEQUENCE_LENGTH": "2048",
            "HF_AUTO_CAST_TYPE": "bf16",
            "MAX_BATCH_SIZE": "4",
            "MAX_INPUT_LENGTH": "1512",
            "MAX_TOTAL_TOKENS": "2048",
        },
        {"max_input_tokens": 1512, "max_total_tokens": 2048, "num_cores": 2},
    ),
    (
        {
            "HF_MODEL_ID": "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
            "HF_NUM_CORES": "24",
            "HF_AUTO_CAST_TYPE": "bf16",
            "MAX_BATCH_SIZE": "4",
            "MAX_INPUT_TOKENS": "3686",
            "MAX_TOTAL_TOKENS": "4096",
        },
        {"max_input_tokens": 3686, "max_total_tokens": 4096, "num_cores": 24},
    ),
    (
        {"HF_MODEL_ID": "a/b", "SM_NUM_GPUS": "1", "MAX_INPUT_LENGTH": "1024", "MAX_TOTAL_TOKENS": "2048"},
        {"model_id": "a/b", "max_input_tokens": 1024},
    ),
]


def split_command(command: str) -> tuple[list[str], dict[str, str]]:
    """The arguments after the image's name, and the variables given with -e."""
    words = shlex.split(command)
    image = next(number for number, word in enumerate(words) if word.startswith("ghcr.io/"))
    given = [words[number + 1] for number, word in enumerate(words[:image]) if word == "-e"]
    return words[image + 1 :], dict(pair.split("=", 1) for pair in given)
