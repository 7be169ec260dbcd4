"""`ranvier plan`: what it prints, in which processes, and one line when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fake_neuron import neuron_root
from planned_models import LLAMA_31_8B, SMALL
from ranvier.config.plan import PLAN_OPTIONS, load_plan_config
from ranvier.errors import ModelError, OptionError
from ranvier.launcher.planning import plan_page, read_spec
from tiny_checkpoints import TinyModel, write_gguf

_RUN = """
import sys
from ranvier.launcher.main import ranvier
sys.argv = ["ranvier", "plan", *sys.argv[1:]]
heavy = {"jax", "jaxlib", "openvino", "gguf", "tokenizers", "starlette", "huggingface_hub", "torch"}
try:
    ranvier()
finally:
    print("loaded:", sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True)


def page(*arguments: str, root: Path = Path("/nowhere"), **environ: str) -> str:
    return plan_page(load_plan_config(arguments, environ, "ranvier plan"), root)


def saved(directory: Path, config: dict[str, Any]) -> str:
    path = directory / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


PAGE = """\
MODEL
8.03 B parameters, 32 layers, 32 heads, 8 KV heads, bf16
inf2.xlarge: 1 chip Inferentia2, 2 NeuronCores (LNC 1) of 16.0 GiB, 4 vCPU, 16.0 GiB host
Plan: 2 cores, batch_size 4, sequence_length 2048; room for 1 such engine

Chosen:
  num_cores 2: one chip
  sequence_length 2048: given
  batch_size 4: given

Memory of each core:
                       GiB  of core
  weights             7.49      47%
  KV cache            0.50       3%
  token counts       <0.01       0%
  logits             ~0.12       1%
  scratch            ~0.17       1%
  programs, runtime  ~1.00       6%
  total              ~9.29      58%
  of                 16.00     100%

Host memory:
                           GiB
  export (write shards)   ~7.9
  compile one program    ~17.2  19 programs, more than this host has: compile on a larger instance of the same chip
  load                    ~9.5  a core's shard at a time

Largest batch on 2 cores:
  sequence_length  1024  2048  4096  8192  16384  32768  65536  131072
  batch_size        113    57    28    13      6      2      1       -

Decode, upper bound in tokens/s of all rows, by context of the program:
  batch  128 tokens  256 tokens  1024 tokens  2048 tokens  bound by
  1              59          58           58           58  memory
  2             117         117          115          113  memory
  4             233         232          226          219  memory

Time to first token, lower bound, nothing else running:
  prompt up to  calls     ms  bound by
  128               1   17.1  memory
  256               1   19.0  compute
  512               1   38.3  compute
  1024              1   78.1  compute
  2047              3  159.2  chunks

Other core counts, at sequence_length 2048, tokens/s of one engine (upper bound):
  cores  weights GiB  largest batch  engines  1 row  4 rows
  1            14.96              0        2      -       -
  2 *           7.49             57        1     58     219

~ marks estimates. Bounds leave out the sums over cores, the sampler and launches: real speed is lower.
No Neuron device has confirmed these figures yet; docs/neuron.md says what would.
"""


def test_the_page_has_memory_limits_and_bounds_and_loads_no_heavy_library(tmp_path: Path) -> None:
    model = saved(tmp_path, LLAMA_31_8B)
    done = run("--model-id", model, "--instance=inf2.xlarge", "--batch-size=4", "--sequence-length=2048")
    assert done.stderr == "loaded: []\n"
    assert done.stdout.replace(model, "MODEL") == PAGE
    assert done.returncode == 0


@pytest.mark.parametrize("instance", ["inf2.xlarge", "inf2.48xlarge", "trn1.32xlarge", "trn2.3xlarge", "trn2.48xlarge"])
@pytest.mark.parametrize("more", [(), ("--num-cores=1",), ("--auto-cast-type=fp32", "--sequence-length=131")])
def test_no_line_is_wider_than_120_columns(tmp_path: Path, instance: str, more: tuple[str, ...]) -> None:
    model = saved(tmp_path, SMALL | {"hidden_size": 1024, "num_attention_heads": 12, "head_dim": 64})
    lines = page("--model-id", model, "--instance", instance, *more).splitlines()
    assert max(map(len, lines[1:])) <= 120
    assert not [line for line in lines if line != line.rstrip()]


def test_a_plan_that_does_not_fit_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = run("--model-id", saved(tmp_path, LLAMA_31_8B), "--instance=inf2.xlarge", "--batch-size=999", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith('Error: ArgumentValidation("`batch_size` 999 x `sequence_length` 256 does not fit')


def test_json_has_the_same_plan_in_plain_units(tmp_path: Path) -> None:
    model = saved(tmp_path, LLAMA_31_8B)
    value = json.loads(page("--model-id", model, "--instance=trn2.48xlarge", "--json"))
    assert (value["model_id"], value["instance"], value["chip"], value["lnc"]) == (
        model,
        "trn2.48xlarge",
        "Trainium2",
        2,
    )
    assert (value["num_cores"], value["batch_size"], value["sequence_length"]) == (4, 32, 4096)
    parts = ("weights", "kv_cache", "counts", "logits", "scratch", "reserve")
    assert sum(value["core_memory"][part] for part in parts) == value["core_memory"]["total"]
    assert value["core_memory"]["capacity"] == 24 * 2**30
    assert value["host_memory"]["parallel_compiles"] == value["num_programs"] == 20
    assert value["largest_batch"]["4096"] == 150
    assert value["decode_upper_bound"][0].keys() == {"batch_size", "context", "tokens_per_second", "bound_by"}
    assert [entry["bucket"] for entry in value["first_token_lower_bound"]] == [128, 256, 512, 1024]
    assert value["estimates"] == ["core_memory.logits", "core_memory.scratch", "core_memory.reserve", "host_memory"]


def test_the_optimum_spellings_and_variables_are_read(tmp_path: Path) -> None:
    argv = ["--batch_size=2", "--sequence_length=64", "--num_cores=1", "--auto_cast_type=fp32"]
    spelled = load_plan_config(["--model-id=m", *argv], {}, "ranvier plan")
    assert (spelled.batch_size, spelled.sequence_length, spelled.num_cores, spelled.auto_cast_type) == (
        2,
        64,
        1,
        "fp32",
    )
    variables = {
        "HF_MODEL_ID": "m",
        "HF_NUM_CORES": "2",
        "HF_AUTO_CAST_TYPE": "fp16",
        "RANVIER_INSTANCE": "inf2.xlarge",
        "NEURON_LOGICAL_NC_CONFIG": "1",
    }
    read = load_plan_config([], variables, "ranvier plan")
    assert (read.model_id, read.num_cores, read.auto_cast_type, read.instance, read.lnc) == (
        "m",
        2,
        "fp16",
        "inf2.xlarge",
        1,
    )
    assert read.sources["num_cores"] == "environment variable `HF_NUM_CORES`"


def test_without_an_instance_the_hosts_own_is_planned_for(tmp_path: Path) -> None:
    model = saved(tmp_path, SMALL)
    root = neuron_root(tmp_path / "root", "trn1.2xlarge", devices=1, cores=2)
    assert "\ntrn1.2xlarge: 1 chip Trainium1" in page("--model-id", model, root=root)
    with pytest.raises(OptionError) as error_info:
        page("--model-id", model, root=tmp_path / "empty")
    assert str(error_info.value) == (
        "`instance` is missing, and this host is no Neuron instance; give `--instance` one of inf2.xlarge, "
        "inf2.8xlarge, inf2.24xlarge, inf2.48xlarge, trn1.2xlarge, trn1.32xlarge, trn1n.32xlarge, trn2.3xlarge, "
        "trn2.48xlarge, trn2u.48xlarge"
    )


def test_a_directory_a_file_and_a_gguf_name_the_same_model(tmp_path: Path) -> None:
    path = saved(tmp_path, SMALL)
    assert read_spec(path) == read_spec(str(tmp_path))
    write_gguf(tmp_path / "tiny.gguf", TinyModel())
    assert read_spec(str(tmp_path / "tiny.gguf")).num_layers == TinyModel().num_layers


def test_a_hub_id_is_refused_with_how_to_get_its_config() -> None:
    done = run("--model-id=meta-llama/Llama-3.1-8B", "--instance=inf2.xlarge")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: `model_id` meta-llama/Llama-3.1-8B: no such file or directory; `ranvier plan` downloads nothing. Save "
        "the model's config.json and give its path: hf download meta-llama/Llama-3.1-8B config.json --local-dir DIR\n"
        "loaded: []\n"
    )


def test_a_model_that_cannot_be_read_says_which_field(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="`hidden_size` is missing"):
        read_spec(saved(tmp_path, {"model_type": "llama"}))
    with pytest.raises(OptionError, match="`model_id` is missing"):
        load_plan_config([], {}, "ranvier plan")


def test_help_names_every_flag() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert [flag for option in PLAN_OPTIONS for flag in option.flags if flag not in done.stdout] == []
