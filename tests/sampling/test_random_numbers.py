import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranvier.sampling import uniform
from ranvier.sampling.random import philox

ALL_ONES = 2**64 - 1
WORDS = st.integers(0, ALL_ONES)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
        ),
        (
            (ALL_ONES, ALL_ONES, ALL_ONES, ALL_ONES),
            (ALL_ONES, ALL_ONES),
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
        (
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected


@given(seed=WORDS, counter=st.integers(1, ALL_ONES))
def test_uniforms_are_the_upper_53_bits_that_numpys_philox_gives(seed: int, counter: int) -> None:
    # numpy counts up before it draws.
    word = int(np.random.Philox(key=seed, counter=counter - 1).random_raw())
    assert uniform(seed, counter) == (word >> 11) / 2**53


def test_uniforms_never_change() -> None:
    assert uniform(0, 0) == (0x16554D9ECA36314C >> 11) / 2**53
    assert [uniform(42, index).hex() for index in range(3)] == [
        "0x1.4ed0fc5a69913p-1",
        "0x1.a3f102fa9ac51p-1",
        "0x1.78f6aa25870f8p-2",
    ]
    assert uniform(2**64 - 1, 2**40).hex() == "0x1.318ad9591d1c8p-4"


@given(seed=WORDS, counter=WORDS)
def test_uniforms_are_at_least_0_and_less_than_1(seed: int, counter: int) -> None:
    assert 0.0 <= uniform(seed, counter) < 1.0


@pytest.mark.parametrize("by_seed", [False, True], ids=["successive counters", "successive seeds"])
def test_uniforms_fill_the_interval_evenly(by_seed: bool) -> None:
    draws = [uniform(index, 7) if by_seed else uniform(7, index) for index in range(10_000)]
    counts, _ = np.histogram(draws, bins=100, range=(0.0, 1.0))
    # 148.2 is the 0.999 quantile of chi-square with 99 degrees of freedom.
    assert ((counts - 100) ** 2 / 100).sum() < 148.2
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03
