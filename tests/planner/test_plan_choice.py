"""What is picked, why, that it fits, and how what cannot fit is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planned_models import LLAMA_31_8B, LLAMA_31_70B, SMALL, spec
from ranvier.errors import ModelError, OptionError, SetupError
from ranvier.models import DecoderSpec
from ranvier.neuron_host import GIB, CastType
from ranvier.planner import INSTANCES, Instance, Plan, Wish, find_instance, make_plan

EIGHT_B, SEVENTY_B = spec(LLAMA_31_8B), spec(LLAMA_31_70B)


def plan(
    decoder: DecoderSpec, instance: str, cast_type: CastType = "bf16", lnc: int | None = None, **wish: int
) -> Plan:
    return make_plan(decoder, find_instance(instance), Wish(**wish), cast_type=cast_type, lnc=lnc)


def refusal(decoder: DecoderSpec, instance: str, **wish: int) -> SetupError:
    with pytest.raises(SetupError) as error_info:
        plan(decoder, instance, "bf16", **wish)
    return error_info.value


@pytest.mark.parametrize(
    ("instance", "cores", "batch", "engines", "why_cores", "most"),
    [
        ("inf2.xlarge", 2, 16, 1, "one chip", 28),
        ("inf2.8xlarge", 2, 16, 1, "one chip", 28),
        ("trn1.32xlarge", 2, 16, 16, "one chip; the other cores serve more as engines of their own", 28),
        ("trn2.48xlarge", 4, 32, 16, "one chip; the other cores serve more as engines of their own", 150),
    ],
)
def test_an_8b_model_gets_one_chip_of_every_instance(
    instance: str, cores: int, batch: int, engines: int, why_cores: str, most: int
) -> None:
    made = plan(EIGHT_B, instance)
    assert (made.choice.num_cores, made.choice.batch_size, made.choice.sequence_length) == (cores, batch, 4096)
    assert made.num_engines == engines
    assert made.choice.reasons == (
        f"num_cores {cores}: {why_cores}",
        "sequence_length 4096: the usual length",
        f"batch_size {batch}: the largest power of two up to 32 that fits; at most {most} do",
    )


def test_a_70b_model_gets_the_fewest_cores_that_hold_eight_sequences() -> None:
    made = plan(SEVENTY_B, "inf2.48xlarge")
    assert made.choice.num_cores == 16
    assert made.choice.reasons[0] == (
        "num_cores 16: the fewest that hold 8 x 4096 and split the model evenly; 8 do not hold it"
    )


def test_where_eight_sequences_do_not_fit_on_any_cores_all_even_ones_are_taken() -> None:
    made = plan(EIGHT_B, "inf2.xlarge", sequence_length=16_384)
    assert (made.choice.num_cores, made.choice.batch_size) == (2, 4)
    assert made.choice.reasons[0] == ("num_cores 2: the most that split the model evenly; 8 x 16384 does not fit")


def test_heads_that_do_not_split_over_a_chip_leave_a_core_idle() -> None:
    made = plan(
        spec(SMALL, num_attention_heads=9, num_key_value_heads=3, head_dim=4, intermediate_size=36), "trn2.3xlarge"
    )
    assert made.choice.reasons[0] == (
        "num_cores 3: as many of the 4 of one chip as split the model evenly; "
        "the other cores serve more as engines of their own"
    )


def test_a_given_count_that_splits_nothing_is_taken_and_said_to_be_wasteful() -> None:
    made = plan(EIGHT_B, "inf2.48xlarge", num_cores=12)
    assert made.choice.reasons[0] == (
        "num_cores 12: given; every core computes attention (32 heads, 8 KV heads) and the MLP (14336 wide) in full, "
        "which 12 does not split (1, 2, 4, 8, 16 do)"
    )


def test_what_is_given_is_kept() -> None:
    made = plan(EIGHT_B, "trn1.32xlarge", num_cores=8, batch_size=24, sequence_length=2000)
    assert (made.choice.num_cores, made.choice.batch_size, made.choice.sequence_length) == (8, 24, 2000)
    assert made.choice.reasons == ("num_cores 8: given", "sequence_length 2000: given", "batch_size 24: given")


def test_a_short_model_is_planned_for_all_it_can_do() -> None:
    made = plan(spec(SMALL), "inf2.xlarge")
    assert made.choice.sequence_length == 1024
    assert made.choice.reasons[1] == "sequence_length 1024: all that the model was made for"


def test_the_sequence_is_halved_until_the_given_batch_fits() -> None:
    made = plan(EIGHT_B, "inf2.xlarge", batch_size=64)
    assert made.choice.sequence_length == 1024
    assert made.choice.reasons[1] == "sequence_length 1024: 4096 was halved until the batch fits"


def test_a_batch_that_is_too_large_is_refused_with_what_would_fit() -> None:
    error = refusal(EIGHT_B, "inf2.xlarge", batch_size=64, sequence_length=4096)
    assert isinstance(error, OptionError)
    assert str(error) == (
        "`batch_size` 64 x `sequence_length` 4096 does not fit on inf2.xlarge: each of 2 NeuronCores would need "
        "24.9 GiB (KV cache 16.00, weights 7.49, reserve 1.00, scratch 0.23, logits and counts 0.15) and has 16.0 GiB; "
        "what fits: batch_size <= 28 at this length, sequence_length <= 1824 at this batch"
    )
    assert plan(EIGHT_B, "inf2.xlarge", batch_size=28, sequence_length=4096).memory.total <= 16 * GIB
    assert plan(EIGHT_B, "inf2.xlarge", batch_size=64, sequence_length=1824).memory.total <= 16 * GIB
    assert isinstance(refusal(EIGHT_B, "inf2.xlarge", batch_size=29, sequence_length=4096), OptionError)
    assert isinstance(refusal(EIGHT_B, "inf2.xlarge", batch_size=64, sequence_length=1825), OptionError)


def test_a_model_that_is_too_large_is_refused_with_an_instance_that_holds_it() -> None:
    error = refusal(SEVENTY_B, "inf2.xlarge")
    assert isinstance(error, ModelError)
    assert str(error) == (
        "`model_id`: the model does not fit on inf2.xlarge: for 1 x 256 tokens each of 2 NeuronCores would need "
        "66.9 GiB (weights 65.72, reserve 1.00, logits and counts 0.12, scratch 0.05, KV cache 0.04) and has 16.0 GiB; "
        "inf2.48xlarge would hold it"
    )


def test_too_few_given_cores_are_refused_with_how_many_would_do() -> None:
    error = refusal(EIGHT_B, "inf2.xlarge", num_cores=1)
    assert isinstance(error, ModelError)
    assert str(error) == (
        "`model_id`: the model does not fit on inf2.xlarge: for 1 x 256 tokens the NeuronCore would need 16.2 GiB "
        "(weights 14.96, reserve 1.00, logits and counts 0.12, scratch 0.04, KV cache 0.03) and has 16.0 GiB; "
        "`num_cores` 2 would hold it"
    )


def test_a_model_that_nothing_holds_is_refused_as_such() -> None:
    huge = spec(LLAMA_31_70B, num_hidden_layers=8000)
    assert str(refusal(huge, "trn2.48xlarge")).endswith("no instance in the table holds it")


def test_weights_that_the_host_cannot_hold_while_it_loads_are_refused() -> None:
    """inf2.xlarge has as much host memory as one core has; 2 GiB of it are not for weights."""
    wide = spec(LLAMA_31_8B, num_hidden_layers=65)
    assert str(refusal(wide, "inf2.xlarge", sequence_length=256, batch_size=1)) == (
        "`model_id`: loading on 2 NeuronCores is estimated to take 16.2 GiB of host memory and inf2.xlarge has "
        "16.0 GiB; take more cores or a larger instance"
    )


@pytest.mark.parametrize(
    ("instance", "wish", "message"),
    [
        (
            "inf2.xlarge",
            {"num_cores": 4},
            "`num_cores` must be <= 2, the NeuronCores of inf2.xlarge at LNC 1. Given: 4",
        ),
        (
            "trn2.48xlarge",
            {"num_cores": 128},
            "`num_cores` must be <= 64, the NeuronCores of trn2.48xlarge at LNC 2. Given: 128",
        ),
        (
            "inf2.xlarge",
            {"sequence_length": 131073},
            "`sequence_length` must be <= 131072, for which the model was made. Given: 131073",
        ),
    ],
)
def test_what_is_out_of_bounds_is_refused(instance: str, wish: dict[str, int], message: str) -> None:
    assert str(refusal(EIGHT_B, instance, **wish)) == message


def test_a_logical_core_configuration_that_the_chip_lacks_is_refused() -> None:
    with pytest.raises(OptionError) as error_info:
        plan(EIGHT_B, "inf2.xlarge", lnc=2)
    assert str(error_info.value) == "`lnc` must be 1 on Inferentia2. Given: 2"
    assert plan(EIGHT_B, "trn2.48xlarge", lnc=1).choice.num_cores == 8


def test_compiling_on_a_small_host_is_refused_with_the_numbers() -> None:
    made = plan(EIGHT_B, "inf2.xlarge")
    assert made.parallel_compiles == 0
    with pytest.raises(ModelError) as error_info:
        made.require_compile()
    assert str(error_info.value) == (
        "`model_id`: compiling one program is estimated to take 17.2 GiB of host memory and inf2.xlarge has 16.0 GiB; "
        "export on a larger instance of the same chip and copy the artifact here"
    )


def test_programs_compile_at_the_same_time_as_memory_and_processors_allow() -> None:
    """17.2 GiB for the first and 15.2 for each further one: of 128 GiB on inf2.8xlarge, 8 at a time."""
    made = plan(EIGHT_B, "inf2.8xlarge")
    assert made.parallel_compiles == 8
    assert 17.2 + 7 * 15.2 < 128 < 17.2 + 8 * 15.2
    made.require_compile()
    assert plan(EIGHT_B, "trn1.32xlarge").parallel_compiles == made.buckets.num_programs == 20
    assert plan(spec(SMALL), "inf2.xlarge").parallel_compiles == 3


def test_a_host_that_is_not_in_the_table_is_not_judged() -> None:
    made = plan(EIGHT_B, "trn2.3xlarge")
    assert made.parallel_compiles is None
    made.require_compile()


@given(
    decoder=st.sampled_from([EIGHT_B, SEVENTY_B, spec(SMALL)]),
    instance=st.sampled_from(INSTANCES),
    cast_type=st.sampled_from(["bf16", "fp16", "fp32"]),
    batch=st.none() | st.integers(1, 200),
    sequence=st.none() | st.integers(2, 1024),
    cores=st.none() | st.integers(1, 64),
)
def test_what_is_picked_fits_and_everything_else_is_refused_in_one_line(
    decoder: DecoderSpec,
    instance: Instance,
    cast_type: CastType,
    batch: int | None,
    sequence: int | None,
    cores: int | None,
) -> None:
    wish = Wish(num_cores=cores, batch_size=batch, sequence_length=sequence)
    try:
        made = make_plan(decoder, instance, wish, cast_type=cast_type)
    except SetupError as error:
        assert "\n" not in str(error) and "`" in str(error)
        return
    choice, fit = made.choice, made.fit
    assert made.memory.total <= fit.capacity
    assert made.memory == fit.memory(choice.num_cores, choice.batch_size, choice.sequence_length)
    assert choice.num_cores <= fit.num_cores and choice.sequence_length <= decoder.max_positions
    assert choice.batch_size == batch or batch is None
    assert choice.sequence_length == sequence or sequence is None
    assert choice.num_cores == cores or cores is None


def test_an_unknown_instance_is_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError) as error_info:
        find_instance("inf2.4xlarge")
    assert str(error_info.value) == (
        "`instance` must be one of inf2.xlarge, inf2.8xlarge, inf2.24xlarge, inf2.48xlarge, trn1.2xlarge, "
        "trn1.32xlarge, trn1n.32xlarge, trn2.3xlarge, trn2.48xlarge, trn2u.48xlarge. Given: `inf2.4xlarge`; "
        "did you mean `inf2.48xlarge`?"
    )


@pytest.mark.parametrize("name", ["inf2.xlarge", "INF2.XLARGE", " inf2.xlarge", "ml.inf2.xlarge"])
def test_names_are_read_in_any_case_and_as_sagemaker_writes_them(name: str) -> None:
    assert find_instance(name).name == "inf2.xlarge"


@pytest.mark.parametrize(
    ("name", "device_gib", "cores"),
    [
        ("inf2.xlarge", 32, 2),
        ("inf2.8xlarge", 32, 2),
        ("inf2.24xlarge", 192, 12),
        ("inf2.48xlarge", 384, 24),
        ("trn1.2xlarge", 32, 2),
        ("trn1.32xlarge", 512, 32),
        ("trn1n.32xlarge", 512, 32),
        ("trn2.48xlarge", 1536, 64),
        ("trn2u.48xlarge", 1536, 64),
    ],
)
def test_chips_add_up_to_the_published_memory_and_cores(name: str, device_gib: int, cores: int) -> None:
    instance = find_instance(name)
    assert instance.num_chips * instance.chip.memory_bytes == device_gib * GIB
    assert instance.num_cores(instance.chip.default_lnc) == cores
