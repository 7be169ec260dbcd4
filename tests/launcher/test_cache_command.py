"""`ranvier cache`: what each subcommand says, does, and leaves with."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from fake_neuron import neuron_root
from optimum_configs import CASES
from optimum_entries import LLAMA, MODEL, REGISTRY, put, put_entry
from ranvier.artifacts import hub_cache
from ranvier.errors import ArtifactError, ModelError, OptionError
from ranvier.launcher.cache import cache_command

COMPILER = REGISTRY.split("/")[0]
OLD = "neuronxcc-2.19.8089.0+8ab9f450/0_REGISTRY/0.3.0"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A repository in a directory with two exports of one model: tp 2 with batch 1 and batch 4."""
    for size in (1, 4):
        put_entry(tmp_path / "cache", batch_size=size)
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint directory, as far as it is looked at."""
    put(tmp_path, "model/config.json", json.dumps(LLAMA))
    return tmp_path / "model"


def run(cache: Path, *arguments: str, root: Path = Path("/nowhere"), **environ: str) -> int:
    """The command with this repository and an empty local compile cache next to it."""
    variables = {
        "CUSTOM_CACHE_REPO": str(cache),
        "NEURON_COMPILE_CACHE_URL": str(cache.parent / "local"),
        "HOME": str(cache.parent),
    }
    return cache_command(arguments, "ranvier cache", {**variables, **environ}, root)


def test_a_hit_names_every_entry_and_the_one_taken(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "lookup", str(model), MAX_BATCH_SIZE="2", MAX_TOTAL_TOKENS="4096") == 0
    page = capsys.readouterr().out
    assert f"looked in {cache}: 2 entries" in page
    assert "taken     tp 2, batch 4, sequence 4096, prompt 4096, bf16, trn1" in page
    assert "not taken tp 2, batch 1" in page
    assert "batch_size: batch_size is 1, wanted at least 2 (environment variable `MAX_BATCH_SIZE`)" in page
    assert "serve with MAX_BATCH_SIZE=4 MAX_TOTAL_TOKENS=4096 HF_NUM_CORES=2 HF_AUTO_CAST_TYPE=bf16" in page
    assert "Whether each compiled graph is found is decided when it is loaded" in page


def test_a_miss_names_the_nearest_entry_the_field_and_what_would_hit(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cache, "lookup", str(model), "--max-batch-size", "8") == 1
    page = capsys.readouterr().out
    assert "miss: no entry satisfies the request\nnearest   tp 2, batch 4" in page
    assert "differs in batch_size: 4, wanted at least 8 (flag `--max-batch-size`)" in page
    assert "would hit MAX_BATCH_SIZE=4 MAX_TOTAL_TOKENS=4096 HF_NUM_CORES=2 HF_AUTO_CAST_TYPE=bf16" in page
    assert (
        f"optimum-cli export neuron --model {model} --task text-generation --batch_size 8 --sequence_length 4096 "
        f"--tensor_parallel_size 2 DIRECTORY" in page
    )


def test_flags_win_over_variables(cache: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "lookup", str(model), "--max-batch-size=4", MAX_BATCH_SIZE="64") == 0
    assert "asked for batch_size 4 (flag `--max-batch-size`)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("MAX_BATCH_SIZE", "9", "batch_size"),
        ("MAX_TOTAL_TOKENS", "9000", "sequence_length"),
        ("MAX_INPUT_TOKENS", "4096", "sequence_length"),
        ("MAX_INPUT_LENGTH", "4096", "sequence_length"),
        ("HF_NUM_CORES", "4", "tp_degree"),
        ("HF_AUTO_CAST_TYPE", "fp16", "torch_dtype"),
    ],
)
def test_every_variable_is_a_rule(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str], variable: str, value: str, field: str
) -> None:
    assert run(cache, "lookup", str(model), "--json", **{variable: value}) == 1
    page = json.loads(capsys.readouterr().out)
    (failed,) = page["nearest"]["failed"]
    assert failed["field"] == field and f"environment variable `{variable}`" in failed["wanted"]


def test_json_has_what_the_page_has(cache: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "lookup", str(model), "--json") == 0
    page = json.loads(capsys.readouterr().out)
    assert page["hit"] is True and page["looked_in"] == [{"repository": str(cache), "entries": 2}]
    assert [entry["taken"] for entry in page["entries"]] == [True, False]
    assert page["environment"]["MAX_BATCH_SIZE"] == 4
    assert page["host"]["compiler_version"]["value"] == "2.21.33363.0"


def test_this_hosts_chip_and_cores_are_rules(
    cache: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_entry(cache, tp_degree=8, batch_size=4)
    inf2 = neuron_root(tmp_path / "inf2", "inf2.xlarge", devices=1, cores=2)
    assert run(cache, "lookup", str(model), "--num-cores=8", root=inf2) == 1
    page = capsys.readouterr().out
    assert "host      target trn1, available cores 2" in page
    assert "cores: tp_degree is 8, wanted at most 2 (this host)" in page


def test_an_instance_can_be_named_instead(cache: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "lookup", str(model), "--instance", "trn2.48xlarge") == 1
    page = capsys.readouterr().out
    assert "target: target is trn1, wanted trn2 (flag `--instance`)" in page
    assert run(cache, "lookup", str(model), "--instance", "inf2.xlarge") == 0


def test_the_local_compile_cache_is_looked_in_first(
    cache: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_entry(tmp_path / "local", batch_size=16)
    assert run(cache, "lookup", str(model), "--json") == 0
    page = json.loads(capsys.readouterr().out)
    assert page["environment"]["MAX_BATCH_SIZE"] == 16
    assert [place["repository"] for place in page["looked_in"]] == [str(tmp_path / "local"), str(cache)]


class UnreachableRepository:
    """A hub that is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def list_folders(self, folder: str) -> tuple[str, ...]:
        raise ModelError("the hub cannot be reached")


def test_without_network_the_local_compile_cache_is_enough(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_cache, "HubCacheRepository", UnreachableRepository)
    put_entry(cache.parent / "local")
    assert run(cache, "lookup", str(model), CUSTOM_CACHE_REPO="") == 0
    assert "aws-neuron/optimum-neuron-cache was left out: the hub cannot be reached" in capsys.readouterr().out


def test_without_network_and_entries_the_reason_is_raised(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_cache, "HubCacheRepository", UnreachableRepository)
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        run(cache, "lookup", str(model), "--repository", "org/cache")


def test_a_hub_id_is_looked_up_by_name_too(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config.json comes from the hub; an entry below the name can be of an older one."""
    changed = json.dumps({**LLAMA, "rope_theta": 1})
    path = put(model, "changed.json", changed)
    monkeypatch.setattr("ranvier.artifacts.hub.read_file", lambda *arguments: path)
    assert run(cache, "lookup", MODEL) == 1
    page = capsys.readouterr().out
    assert f"llama/{MODEL}/" in page
    assert "architecture: config.json `rope_theta` is 500000.0, wanted 1" in page


def test_a_family_without_digests_is_looked_up_by_name_alone(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(model, "other.json", json.dumps({"model_type": "gemma3_text"}))
    monkeypatch.setattr("ranvier.artifacts.hub.read_file", lambda *arguments: path)
    assert run(cache, "lookup", MODEL) == 1
    assert "only entries of this name were looked for, unchecked" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match="`model_type` is 'gemma3_text'"):
        run(cache, "lookup", str(path))


def test_a_config_file_can_be_given(cache: Path, model: Path) -> None:
    assert run(cache, "lookup", str(model / "config.json")) == 0


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c"])
def test_a_model_that_is_nowhere_is_refused(cache: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"`MODEL` {name}: no such file or directory"):
        run(cache, "lookup", name)


def test_a_repository_that_is_nowhere_is_refused(cache: Path, model: Path) -> None:
    with pytest.raises(OptionError, match="`CUSTOM_CACHE_REPO` is /nowhere, which is no directory"):
        run(cache, "lookup", str(model), CUSTOM_CACHE_REPO="/nowhere")


def test_why_miss_takes_the_entries_of_every_version(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qwen = put(tmp_path, "qwen/config.json", json.dumps(CASES["qwen3"]))
    versions = {"neuronxcc_version": "2.19.8089.0+8ab9f450", "optimum_neuron_version": "0.3.0"}
    put_entry(cache, CASES["qwen3"], registry=OLD, **versions)
    assert run(cache, "lookup", str(qwen)) == 1
    assert "`ranvier cache why-miss` takes all" in capsys.readouterr().out
    assert run(cache, "why-miss", str(qwen)) == 1
    page = capsys.readouterr().out
    assert "differs in neuronxcc_version: 2.19.8089.0+8ab9f450, wanted 2.21.33363.0" in page
    assert "advice: Take an image with the compiler that made the entries." in page


def test_a_file_that_is_no_entry_is_said(cache: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next((cache / REGISTRY).glob("*/*.json")).parent
    put(folder, "0.json", "{")
    assert run(cache, "lookup", str(model)) == 0
    assert "unread    " in capsys.readouterr().out


def test_list_names_models_and_counts(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "list") == 0
    assert f"llama        {MODEL}  2" in capsys.readouterr().out
    assert run(cache, "list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert row == {"registry": REGISTRY, "model_type": "llama", "model": MODEL, "entries": 2}


def module(root: Path, name: str, *files: str) -> None:
    for file in files:
        put(root, f"{COMPILER}/MODULE_{name}/{file}", "text")


def test_pull_fills_the_local_cache_for_a_host_without_network(
    cache: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module(cache, "1", "model.neff", "model.done")
    local = tmp_path / "local"
    assert run(cache, "pull", "--dry-run") == 0
    assert not local.exists()
    assert run(cache, "pull") == 0
    assert f"copied 6 files of 1 folders from {cache} to {local}" in capsys.readouterr().out
    assert (local / f"{COMPILER}/MODULE_1/model.neff").is_file()
    assert run(local, "lookup", str(model)) == 0


def test_push_shares_what_is_finished(cache: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    module(local, "1", "model.neff", "model.done", "x.lock")
    module(local, "2", "model.log")
    assert run(cache, "push") == 0
    assert sorted(path.name for path in (cache / COMPILER).glob("MODULE_*/*")) == ["model.done", "model.neff"]


def test_push_refuses_the_public_cache_and_an_empty_one(cache: Path) -> None:
    with pytest.raises(OptionError, match="only its owners write to; name yours with CUSTOM_CACHE_REPO"):
        run(cache, "push", CUSTOM_CACHE_REPO="")
    with pytest.raises(ArtifactError, match="there is nothing to push"):
        run(cache, "push")


def test_status_counts_and_names_what_is_not_done(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module(tmp_path / "local", "1", "model.neff", "model.done")
    module(tmp_path / "local", "2", "model.log")
    assert run(cache, "status") == 0
    page = capsys.readouterr().out
    assert f"{COMPILER}: 1 done, 1 failed, 0.0 MB\n  failed     MODULE_2  text\n" in page
    assert run(cache, "status", "--json") == 0
    states = {module["state"] for module in json.loads(capsys.readouterr().out)["modules"]}
    assert states == {"done", "failed"}


def test_prune_says_what_it_removes(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module(tmp_path / "local", "1", "model.neff", "model.done")
    module(tmp_path / "local", "2", "model.log")
    old = time.time() - 40 * 86400
    for file in (tmp_path / "local" / COMPILER / "MODULE_1").iterdir():
        os.utime(file, (old, old))
    assert run(cache, "prune", "--dry-run", "--older-than", "30") == 0
    page = capsys.readouterr().out
    assert "would remove 2" in page and "MODULE_1: not written for 40 days" in page and "MODULE_2: failed" in page
    assert run(cache, "prune", "--json") == 0
    (removed,) = json.loads(capsys.readouterr().out)["removed"]
    assert removed["reason"] == "failed" and removed["bytes"] == 4
    assert [path.name for path in (tmp_path / "local" / COMPILER).iterdir()] == ["MODULE_1"]


def test_a_cache_on_s3_is_named_as_one_that_cannot_be_read(
    cache: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ArtifactError, match="NEURON_COMPILE_CACHE_URL is s3://bucket, and only local directories"):
        run(cache, "status", NEURON_COMPILE_CACHE_URL="s3://bucket")
    assert run(cache, "lookup", str(model), NEURON_COMPILE_CACHE_URL="s3://bucket") == 0
    assert "note: the local compile cache was left out: NEURON_COMPILE_CACHE_URL is s3://" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no subcommand"),
        (["find"], "error: unknown subcommand `find`"),
        (["lookup"], "error: the argument MODEL is missing"),
        (["status", "x"], "error: unexpected argument `x`"),
        (["prune", "--older-than=old"], "error: flag `--older-than` must be a number of 0 or more. Given: `old`"),
        (["status", "--repository=a"], "error: unknown flag `--repository`"),
    ],
)
def test_mistakes_leave_with_2(
    cache: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(cache, *arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in ("lookup", "list", "pull", "push", "prune", "status"))]
)
def test_help_is_there_for_each(cache: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(cache, *arguments)
    assert caught.value.code == 0
    assert "usage: ranvier cache" in capsys.readouterr().out.lower()


@pytest.mark.parametrize("subcommand", ["status", "prune"])
def test_a_folder_that_was_named_and_is_not_there_is_refused(cache: Path, tmp_path: Path, subcommand: str) -> None:
    with pytest.raises(ArtifactError, match="`--cache-dir` is .*/nowhere, which is no directory; name one"):
        run(cache, subcommand, "--cache-dir", str(tmp_path / "nowhere"))
