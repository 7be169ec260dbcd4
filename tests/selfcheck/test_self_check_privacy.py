"""What a report must not have, and what it has to keep."""

from __future__ import annotations

import pytest

from ranvier.config.self_check import load_self_check_config
from ranvier.selfcheck.outcome import Outcome
from ranvier.selfcheck.privacy import private_words, scrubbed
from ranvier.selfcheck.report import markdown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('File "/home/ann/.venv/lib/x.py", line 3', 'File "<path>", line 3'),
        ("cannot read /tmp/ranvier-self-check-1/first: gone", "cannot read <path>: gone"),
        ("`model_id` ../private/model: no such", "`model_id` <path>: no such"),
        ("see ~/models", "see <path>"),
        ("/dev/neuron0 and /sys/module/neuron/version", "/dev/neuron0 and /sys/module/neuron/version"),
        ("driver: 2.24.7.0, runtime: 2.28.23.0", "driver: 2.24.7.0, runtime: 2.28.23.0"),
        ("connecting to 172.31.4.5 failed", "connecting to <address> failed"),
        ("on ip-172-31-4-5.ec2.internal", "on <address>"),
        ("37103 tokens/s, 5 of 12 / 3", "37103 tokens/s, 5 of 12 / 3"),
    ],
)
def test_paths_and_addresses_go_and_versions_and_devices_stay(text: str, expected: str) -> None:
    assert scrubbed(text, {}) == expected


def test_names_and_secrets_go_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "build-7")
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    words = private_words({"HF_TOKEN": "hf_abcdef", "HOME": "/home/ann", "API_KEY": "1"})
    assert (
        scrubbed("ann@build-7 sent hf_abcdef; annotations stay", words)
        == "<user>@<host> sent <secret>; annotations stay"
    )


def test_a_host_whose_name_is_a_word_of_the_report_leaves_it_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "neuron")
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    assert scrubbed("neuron cores, as root", private_words({})) == "neuron cores, as root"


def test_a_user_without_a_name_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert "" not in private_words({})


def test_what_a_library_wrote_cannot_end_its_block() -> None:
    outcome = Outcome(name="load", status="failed", lines=("```", "# Hello"))
    assert markdown([outcome], None, {}, emulate=False).count("```") == 2


def test_options_have_defaults_that_compare_exactly_whatever_the_container_says() -> None:
    config = load_self_check_config([], {"HF_AUTO_CAST_TYPE": "bf16", "MODEL_ID": "some/model"}, "ranvier self-check")
    assert (config.auto_cast_type, config.model_id, config.num_cores) == ("fp32", None, None)
    given = load_self_check_config(["--auto-cast-type", "bf16", "--num-cores", "8"], {}, "ranvier self-check")
    assert (given.auto_cast_type, given.num_cores) == ("bf16", 8)
