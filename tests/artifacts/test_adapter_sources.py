"""What the entries of `--lora-adapters` name: directories, and repositories of the hub, whose client is played.

The last test has the real client download from a stand-in for the hub.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import COMMIT, Repository, hub_server
from test_hub_download import environment

from ranvier.artifacts import AdapterSource, locate_adapters
from ranvier.artifacts import hub as hub_module
from ranvier.errors import ModelError, OptionError

MODEL = "org/model"
FORMS = "`name=directory`, `name=hub-id`, `hub-id` or `hub-id@revision`"


class Hub:
    """Stands where the hub's client does and notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str | None, str]] = []

    def download(self, model_id: str, revision: str | None, cache_dir: str | None, option: str) -> Path:
        self.asked.append((model_id, revision, cache_dir, option))
        return Path("/cache") / model_id


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(hub_module, "download", hub.download)
    return hub


def test_nothing_is_located_for_no_entries(hub: Hub) -> None:
    assert locate_adapters([], MODEL, None) == ()


def test_a_directory_has_the_name_before_the_equals_sign(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "a=b@c").mkdir()
    found = locate_adapters([f" mine = {tmp_path} ", f"odd={tmp_path}/a=b@c"], MODEL, None)
    assert found == (AdapterSource("mine", str(tmp_path)), AdapterSource("odd", str(tmp_path / "a=b@c")))
    assert hub.asked == []


def test_a_directory_alone_is_its_own_name(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lora@2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate_adapters(["lora@2"], MODEL, None) == (AdapterSource("lora@2", str(tmp_path / "lora@2")),)


def test_the_home_directory_may_be_meant(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lora").mkdir()
    assert locate_adapters(["a=~/lora"], MODEL, None) == (AdapterSource("a", str(tmp_path / "lora")),)


@pytest.mark.parametrize(
    ("entry", "name", "asked"),
    [
        ("org/lora", "org/lora", ("org/lora", None)),
        ("org/lora@v1", "org/lora", ("org/lora", "v1")),
        ("mine=org/lora", "mine", ("org/lora", None)),
        ("mine=org/lora@refs/pr/1", "mine", ("org/lora", "refs/pr/1")),
        ("lora", "lora", ("lora", None)),
    ],
)
def test_what_is_no_directory_is_downloaded(hub: Hub, entry: str, name: str, asked: tuple[str, str | None]) -> None:
    assert locate_adapters([entry], MODEL, "/hub") == (AdapterSource(name, f"/cache/{asked[0]}"),)
    assert hub.asked == [(*asked, "/hub", "lora_adapters")]


@pytest.mark.parametrize("entry", ["", "=", "a=", "=place", "  =place", "@v1", "a=pl\0ace"])
def test_an_entry_without_name_or_place_is_refused(hub: Hub, entry: str) -> None:
    with pytest.raises(OptionError) as caught:
        locate_adapters([entry], MODEL, None)
    assert str(caught.value) == f"`lora_adapters` must hold entries like {FORMS}. Given: {entry!r}"


def test_two_adapters_of_one_name_are_refused(hub: Hub) -> None:
    with pytest.raises(OptionError) as caught:
        locate_adapters(["org/lora", "b=x", "org/lora@v2"], MODEL, None)
    assert str(caught.value) == "`lora_adapters` has two adapters called 'org/lora'; give each a name of its own"


@pytest.mark.parametrize("name", ["tgi", MODEL])
def test_the_names_of_the_model_itself_are_refused(hub: Hub, name: str) -> None:
    with pytest.raises(OptionError) as caught:
        locate_adapters([f"{name}=org/lora"], MODEL, None)
    assert str(caught.value) == (
        f"`lora_adapters` has an adapter called {name!r}, by which clients ask for the model itself; "
        "give it another name"
    )


@pytest.mark.parametrize("place", ["/no/such/place", "./lora", "a/b/c", "org/lora@", "~nobody/x", "org/..x", "a" * 97])
def test_a_place_that_cannot_be_is_refused(hub: Hub, place: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate_adapters([f"mine={place}"], MODEL, None)
    assert str(caught.value) == (
        f"adapter `mine`: {place}: no such directory, and no hub id; `lora_adapters` takes entries like {FORMS}"
    )
    assert hub.asked == []


PROGRAM = """
import json, sys
from ranvier.artifacts import locate_adapters
from ranvier.errors import ModelError
for entry in json.load(sys.stdin):
    try:
        print(json.dumps([[each.name, each.directory] for each in locate_adapters([entry], "m", None)]))
    except ModelError as error:
        print(json.dumps(str(error)))
"""


def test_an_adapter_on_the_hub_is_downloaded_without_what_could_run_code(tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "adapter_model.bin": b"pickled"}
    with hub_server({"org/lora": Repository(files)}) as server:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps([f"mine=org/lora@{COMMIT}", "org/none"]),
            env=environment(server.url, tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    found, refused = (json.loads(line) for line in done.stdout.splitlines())
    ((name, directory),) = found
    assert name == "mine"
    assert sorted(path.name for path in Path(directory).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert refused == (
        "`lora_adapters` org/none: no such local path, and no such repository on the hub "
        "(a private one needs `HF_TOKEN`)"
    )
