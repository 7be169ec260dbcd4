"""Which cached entry is taken, rule by rule; and what is said when none is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_configs import CASES
from optimum_entries import entry
from ranvier.artifacts.optimum import CacheEntry, Wish, architecture, consider

SOURCES = {
    "batch_size": "MAX_BATCH_SIZE",
    "sequence_length": "MAX_TOTAL_TOKENS",
    "max_input_tokens": "MAX_INPUT_TOKENS",
    "num_cores": "HF_NUM_CORES",
    "auto_cast_type": "HF_AUTO_CAST_TYPE",
}


def wish(**values: object) -> Wish:
    return Wish(**values, sources=SOURCES)  # type: ignore[arg-type]


def shapes(entries: tuple[CacheEntry, ...]) -> list[tuple[int, int, int]]:
    return [(each.config.world_size, each.config.batch_size, each.config.sequence_length) for each in entries]


@pytest.mark.parametrize(
    ("rule", "asked", "fits", "fails", "reason"),
    [
        (
            "batch_size",
            {"batch_size": 4},
            [{"batch_size": 4}, {"batch_size": 8}],
            [{"batch_size": 3}, {"batch_size": 1}],
            "wanted at least 4 (MAX_BATCH_SIZE)",
        ),
        (
            "sequence_length",
            {"sequence_length": 4096},
            [{"sequence_length": 4096}, {"sequence_length": 8192}],
            [{"sequence_length": 4095}],
            "sequence_length is 4095, wanted at least 4096 (MAX_TOTAL_TOKENS)",
        ),
        (
            "num_cores",
            {"num_cores": 2},
            [{"tp_degree": 2}, {"tp_degree": 8}, {"tp_degree": 1, "ep_degree": 2}],
            [{"tp_degree": 1}],
            "tp_degree is 1, wanted at least 2 (HF_NUM_CORES)",
        ),
        (
            "cores",
            {"available_cores": 2},
            [{"tp_degree": 1}, {"tp_degree": 2}],
            [{"tp_degree": 8}, {"tp_degree": 2, "pp_degree": 2}],
            "wanted at most 2 (`available_cores`)",
        ),
        (
            "auto_cast_type",
            {"auto_cast_type": "bf16"},
            [
                {"torch_dtype": "bfloat16"},
                {"torch_dtype": "bf16"},
                {"torch_dtype": "float16", "auto_cast_type": "bf16"},
            ],
            [{"torch_dtype": "float16"}, {"torch_dtype": "fp32"}],
            "wanted bf16 (HF_AUTO_CAST_TYPE)",
        ),
        (
            "target",
            {"target": "trn1"},
            [{"target": "trn1"}, {"target": None}],
            [{"target": "trn2"}],
            "target is trn2, wanted trn1 (`target`)",
        ),
        (
            "input_length",
            {"max_input_tokens": 2048},
            [{"max_context_length": 2048}, {"sequence_length": 2049, "max_context_length": 2049}],
            [{"max_context_length": 2047}],
            "max_context_length is 2047, wanted at least 2048 (MAX_INPUT_TOKENS)",
        ),
        (
            "input_length",
            {"max_input_tokens": 2048},
            [{"sequence_length": 4096}],
            [{"sequence_length": 2048}],
            "sequence_length is 2048, wanted at least 2049 (MAX_INPUT_TOKENS)",
        ),
        (
            "compiler",
            {"compiler_version": "2.21.33363.0"},
            [{"neuronxcc_version": "2.21.33363.0+82129205"}, {"neuronxcc_version": "2.21.33363.0"}],
            [{"neuronxcc_version": "2.21.3"}, {"neuronxcc_version": "2.21.33363.01+a"}],
            "wanted 2.21.33363.0 (`compiler_version`)",
        ),
        (
            "compiler",
            {"compiler_version": "2.21.33363.0+82129205"},
            [{"neuronxcc_version": "2.21.33363.0+82129205"}],
            [{"neuronxcc_version": "2.21.33363.0+00000000"}],
            "neuronxcc_version is 2.21.33363.0+00000000, wanted 2.21.33363.0+82129205 (`compiler_version`)",
        ),
        (
            "optimum",
            {"optimum_version": "0.4.5"},
            [{"optimum_neuron_version": "0.4.5"}],
            [{"optimum_neuron_version": "0.4.4"}],
            "optimum_neuron_version is 0.4.4, wanted 0.4.5 (`optimum_version`)",
        ),
        (
            "speculation",
            {},
            [{"speculation_length": 0}],
            [{"speculation_length": 5}],
            "speculation_length is 5, wanted 0",
        ),
        ("task", {}, [{}], [{"task": "feature-extraction"}], "task is feature-extraction, wanted text-generation"),
    ],
)
def test_a_rule_keeps_what_satisfies_the_request(
    rule: str,
    asked: dict[str, object],
    fits: list[dict[str, object]],
    fails: list[dict[str, object]],
    reason: str,
) -> None:
    for values in fits:
        assert consider([entry(**values)], wish(**asked)).considered[0].failed == ()  # type: ignore[arg-type]
    for values in fails:
        selection = consider([entry(**values)], wish(**asked))  # type: ignore[arg-type]
        (difference,) = selection.considered[0].failed
        assert difference.rule == rule
        assert difference.reason.endswith(reason)
        assert selection.chosen is None


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 1, "sequence_length": 128, "tp_degree": 1, "torch_dtype": "float32", "target": "trn2"},
        {"batch_size": 64, "sequence_length": 65536, "tp_degree": 64},
        {"neuronxcc_version": "1", "optimum_neuron_version": "0.3.0"},
    ],
)
def test_what_was_not_asked_excludes_nothing(values: dict[str, object]) -> None:
    assert consider([entry(**values)], Wish()).chosen is not None  # type: ignore[arg-type]


def test_a_given_batch_size_takes_the_smallest_that_is_enough() -> None:
    entries = [entry(batch_size=size) for size in (32, 1, 8, 4)]
    chosen = consider(entries, wish(batch_size=3)).chosen
    assert chosen is not None and chosen.config.batch_size == 4


def test_an_open_batch_size_takes_the_largest() -> None:
    chosen = consider([entry(batch_size=size) for size in (8, 32, 1)], Wish()).chosen
    assert chosen is not None and chosen.config.batch_size == 32


def test_a_given_sequence_length_takes_the_smallest_that_is_enough_and_an_open_one_the_longest() -> None:
    entries = [entry(sequence_length=length) for length in (8192, 2048, 4096)]
    given_length, open_length = consider(entries, wish(sequence_length=2049)).chosen, consider(entries, Wish()).chosen
    assert given_length is not None and given_length.config.sequence_length == 4096
    assert open_length is not None and open_length.config.sequence_length == 8192


def test_fewer_cores_come_before_everything_else() -> None:
    """TGI took the most cores, and left those idle that a smaller model would not need."""
    entries = [entry(tp_degree=8, batch_size=32), entry(tp_degree=2, batch_size=4), entry(tp_degree=4, batch_size=8)]
    chosen = consider(entries, wish(available_cores=8)).chosen
    assert chosen is not None and chosen.config.tp_degree == 2


def test_cores_that_were_asked_for_take_the_fewest_that_are_enough() -> None:
    chosen = consider([entry(tp_degree=cores) for cores in (2, 8, 4)], wish(num_cores=3)).chosen
    assert chosen is not None and chosen.config.tp_degree == 4


def test_entries_that_satisfy_come_first_in_order_of_preference() -> None:
    entries = [entry(batch_size=1), entry(batch_size=16), entry(batch_size=8), entry(batch_size=8, tp_degree=8)]
    selection = consider(entries, wish(batch_size=8))
    assert shapes(tuple(each.entry for each in selection.considered)) == [
        (2, 8, 4096),
        (2, 16, 4096),
        (8, 8, 4096),
        (2, 1, 4096),
    ]
    assert [bool(each.failed) for each in selection.considered] == [False, False, False, True]


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float16"}, "its type comes first of bf16, fp16, fp32"),
        ({"torch_dtype": "float16"}, {"torch_dtype": "float32"}, "its type comes first of bf16, fp16, fp32"),
        ({"on_device_sampling": True}, {"on_device_sampling": False}, "it samples on the device, which is faster"),
        ({"max_context_length": 4096}, {"max_context_length": 2048}, "it takes longer prompts"),
    ],
)
def test_ties_are_broken_and_said(better: dict[str, object], worse: dict[str, object], reason: str) -> None:
    first, second = entry(**better), entry(**worse)  # type: ignore[arg-type]
    for order in ([first, second], [second, first]):
        selection = consider(order, Wish())
        assert (selection.chosen, selection.ties, selection.tie_reason) == (first, (second,), reason)


def test_entries_that_differ_in_nothing_that_matters_tie_by_name() -> None:
    entries = [entry(checkpoint_revision=str(number)) for number in range(3)]
    selection = consider(entries, Wish())
    assert selection.chosen is not None
    assert selection.chosen.digest == min(each.digest for each in entries)
    assert len(selection.ties) == 2
    assert selection.tie_reason == "its name comes first"


def test_a_choice_without_a_tie_names_none() -> None:
    selection = consider([entry(batch_size=1), entry(batch_size=2)], Wish())
    assert (selection.ties, selection.tie_reason) == ((), "")


def test_an_entry_found_by_name_must_have_the_models_architecture() -> None:
    ours = architecture(CASES["llama, whole rope theta"])
    selection = consider([entry()], Wish(), ours)
    (difference,) = selection.considered[0].failed
    assert difference.rule == "architecture"
    assert difference.reason == "config.json `rope_theta` is 500000.0, wanted 500000"
    assert selection.hitting_wish == {}


def test_fields_that_an_export_sets_are_no_other_architecture() -> None:
    assert consider([entry()], Wish(), architecture(CASES["llama, no type"])).chosen is not None
    mixtral = entry({**CASES["mixtral"], "head_dim": 128})
    assert consider([mixtral], Wish(), architecture(CASES["mixtral"])).chosen is not None


def test_without_a_known_architecture_the_name_is_believed() -> None:
    assert consider([entry()], Wish(), None).chosen is not None


def test_the_nearest_entry_fails_the_fewest_rules() -> None:
    far = entry(batch_size=7, sequence_length=2048)
    near = entry(batch_size=1, sequence_length=4096)
    selection = consider([far, near], wish(batch_size=8, sequence_length=4096))
    assert selection.nearest is not None and selection.nearest.entry == near
    assert [difference.field for difference in selection.nearest.failed] == ["batch_size"]


def test_of_those_the_nearest_is_off_by_the_least() -> None:
    selection = consider([entry(batch_size=size) for size in (1, 4, 2)], wish(batch_size=6))
    assert selection.nearest is not None and selection.nearest.entry.config.batch_size == 4


def test_another_compiler_is_nearer_than_another_chip() -> None:
    asked = wish(target="trn1", compiler_version="2.21.33363.0")
    selection = consider([entry(target="trn2"), entry(neuronxcc_version="2.19.8089.0+8ab9f450")], asked)
    assert selection.nearest is not None and selection.nearest.entry.config.target == "trn1"


def test_a_miss_says_the_request_that_would_hit() -> None:
    asked = wish(batch_size=8, max_input_tokens=3000, target="trn1")
    entries = [entry(batch_size=4, max_context_length=2048)]
    selection = consider(entries, asked)
    assert selection.hitting_wish == {
        "batch_size": 4,
        "sequence_length": 4096,
        "num_cores": 2,
        "auto_cast_type": "bf16",
        "max_input_tokens": 2048,
    }
    assert consider(entries, wish(**selection.hitting_wish, target="trn1")).chosen == entries[0]


@pytest.mark.parametrize(
    ("values", "asked", "advice"),
    [
        ({"target": "trn2"}, {"target": "trn1"}, "Entries are for another chip: take a host of that kind."),
        (
            {"neuronxcc_version": "2.19.8089.0+8ab9f450"},
            {"compiler_version": "2.21.33363.0"},
            "Take an image with the compiler that made the entries.",
        ),
        (
            {"tp_degree": 8},
            {"available_cores": 2},
            "Take a host with 4 Neuron devices, or expose 4 to the container: --device=/dev/neuron0 "
            "--device=/dev/neuron1 --device=/dev/neuron2 --device=/dev/neuron3.",
        ),
    ],
)
def test_no_request_would_hit_what_the_host_cannot_run(
    values: dict[str, object], asked: dict[str, object], advice: str
) -> None:
    selection = consider([entry(**values)], wish(**asked))  # type: ignore[arg-type]
    assert selection.hitting_wish == {}
    assert selection.advice == (advice, "Or export the model for your values on a Neuron host.")


def test_without_entries_the_advice_is_to_export() -> None:
    selection = consider([], Wish())
    assert (selection.chosen, selection.nearest, selection.considered) == (None, None, ())
    assert "export it on a Neuron host" in selection.advice[0]


def test_a_hit_needs_no_advice() -> None:
    selection = consider([entry()], Wish())
    assert (selection.advice, selection.hitting_wish) == ((), {})


SIZES = st.sampled_from([1, 2, 4, 8])


@given(
    shapes=st.lists(st.tuples(SIZES, SIZES, st.sampled_from([512, 1024, 2048])), min_size=1, max_size=5),
    batch=st.none() | SIZES,
    cores=st.none() | SIZES,
)
def test_the_order_of_entries_changes_nothing(
    shapes: list[tuple[int, int, int]], batch: int | None, cores: int | None
) -> None:
    entries = [entry(tp_degree=tp, batch_size=size, sequence_length=length) for tp, size, length in shapes]
    asked = wish(batch_size=batch, available_cores=cores)
    assert consider(entries, asked) == consider(reversed(entries), asked)


@given(shape=st.tuples(SIZES, SIZES), asked=st.tuples(SIZES, SIZES))
def test_the_request_that_would_hit_does(shape: tuple[int, int], asked: tuple[int, int]) -> None:
    entries = [entry(tp_degree=shape[0], batch_size=shape[1])]
    selection = consider(entries, wish(num_cores=asked[0], batch_size=asked[1]))
    if selection.chosen is None:
        assert consider(entries, wish(**selection.hitting_wish)).chosen == entries[0]
