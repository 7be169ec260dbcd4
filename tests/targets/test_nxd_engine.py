"""The engine on the stand-in gives what it gives on the CPU target, whatever arrives and leaves meanwhile.

And the comparison sees a broken protocol: the last tests break it on purpose.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_runs import engine_request
from neuron_helpers import limits
from nxd_helpers import GREEDY, fake, shape
from random_load import DrawnConstraint, Load, Outcome, Watched, random_load, serve, varied

from ranvier.core import Capabilities, EngineRequest, FinishEvent, Limits
from ranvier.models import spec_of
from ranvier.targets import Programs
from ranvier.targets.cpu import CpuOptions, load_cpu
from ranvier.targets.nxd import NxdPrograms, NxdShape
from tiny_families import VOCAB, config

LENGTH, WIDTH, CHUNK = 96, 64, 16
HOST = shape(sequence_length=LENGTH, max_context_length=WIDTH)
CHUNKED = replace(HOST, prefill_chunk_size=CHUNK)
ON_DEVICE = replace(HOST, on_device_sampling=True)


class Interleaved(NxdPrograms):
    """Decodes between the chunks of a prompt: the programs keep the protocol in mixed steps, too."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, mixed_steps=True)


class ParkedAtZero(Interleaved):
    """Broken: rows that do not advance write at position 0 of their slots."""

    def _parked_positions(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return np.zeros_like(super()._parked_positions())


class LiveRowsOnly(Interleaved):
    """Broken: the rows that advance are passed, and the library fills up the others."""

    def _forward_rows(self, ids, positions, sampling, slots):  # type: ignore[no-untyped-def]  # as in the class above
        rows = np.array(slots)
        output = self._model.forward(ids[rows], positions[rows], rows, sampling[rows])
        return dict(zip(slots, output, strict=True))


def requests(source: random.Random, count: int, longest: int) -> list[EngineRequest]:
    """Greedy; prompts of one token, of a few, around the borders of chunks, and as long as can be."""
    lengths = [1, 1, 1, 2, 5, 15, 16, 17, 32, 33, 49, longest]
    made = []
    for number in range(count):
        prompt_ids = [source.randrange(VOCAB) for _ in range(source.choice(lengths))]
        num_tokens = min(source.randrange(1, 40), LENGTH - len(prompt_ids))
        made.append(engine_request(str(number), prompt_ids, num_tokens, GREEDY))
    # Up to the last row of the cache.
    last = engine_request("full", [source.randrange(VOCAB) for _ in range(longest)], LENGTH - longest, GREEDY)
    return [*made, last]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nxd")
    fake(folder, HOST).release()
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Programs:
    options = CpuOptions(dtype="float32", kv_cache_dtype="auto", num_threads=1)
    return load_cpu(spec_of(config("llama")), folder / "packed", limits(4, LENGTH), options)


Serve = Callable[[type[NxdPrograms], NxdShape, Load], tuple[dict[str, Outcome], Watched]]


@pytest.fixture(scope="module")
def serve_nxd(folder: Path) -> Serve:
    def served(kind: type[NxdPrograms], of: NxdShape, load: Load) -> tuple[dict[str, Outcome], Watched]:
        watched = Watched(kind(fake(folder, of)))
        return serve(watched, load, DrawnConstraint), watched

    return served


def limits_of(of: NxdShape) -> Limits:
    return of.limits(max_batch_prefill_tokens=2 * CHUNK if of.prefill_chunk_size else 100)


def drawn_load(seed: int, of: NxdShape, *, is_varied: bool = False, count: int = 30) -> Load:
    source = random.Random(seed)
    plain = requests(source, count, of.max_prompt if not of.prefill_chunk_size else 80)
    return random_load(source, varied(plain, are_scored=False) if is_varied else plain, 8, limits_of(of))


def expected(reference: Programs, load: Load) -> dict[str, Outcome]:
    """On the CPU target, without the cancels: whatever is cancelled, and when, gets the beginning of this."""
    budget = replace(load.limits, max_batch_prefill_tokens=256)
    return serve(reference, Load(load.arrivals, {}, budget), DrawnConstraint)


def assert_alike(found: dict[str, Outcome], expected: dict[str, Outcome]) -> None:
    assert found.keys() == expected.keys()
    for name, outcome in expected.items():
        count = len(found[name].tokens)
        assert found[name].tokens == outcome.tokens[:count], name
        assert found[name].is_cancelled or count == len(outcome.tokens), name
        assert all(isinstance(end, FinishEvent) for end in found[name].ends) and len(found[name].ends) == 1


def assert_same_logprobs(found: dict[str, Outcome], expected: dict[str, Outcome]) -> None:
    for name, outcome in found.items():
        assert outcome.logprobs == pytest.approx(expected[name].logprobs[: len(outcome.logprobs)], abs=1e-3)


@pytest.mark.parametrize("of", [HOST, CHUNKED], ids=["whole prompts", "chunks"])
@pytest.mark.parametrize("is_varied", [False, True], ids=["greedy", "varied"])
def test_tokens_are_those_of_the_cpu_target_under_random_arrivals_and_cancels(
    serve_nxd: Serve, reference: Programs, of: NxdShape, is_varied: bool
) -> None:
    load = drawn_load(1 + is_varied, of, is_varied=is_varied)
    found, watched = serve_nxd(NxdPrograms, of, load)
    wanted = expected(reference, load)
    assert_alike(found, wanted)
    assert_same_logprobs(found, wanted)
    # The load was one: slots were used again and again, some requests ended early, long prompts were cut.
    assert len(watched.prompts_of_slot) == 4 and min(watched.prompts_of_slot.values()) >= 3
    assert any(outcome.is_cancelled and outcome.tokens for outcome in found.values())
    assert (watched.num_cuts > 0) == (of.prefill_chunk_size > 0)
    assert max(watched.widths) == 4


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_decodes_between_the_chunks_of_a_prompt_change_nothing(
    serve_nxd: Serve, reference: Programs, seed: int
) -> None:
    load = drawn_load(seed, CHUNKED)
    found, _ = serve_nxd(Interleaved, CHUNKED, load)
    assert_alike(found, expected(reference, load))


def test_greedy_tokens_chosen_on_the_device_are_those_of_the_cpu_target(serve_nxd: Serve, reference: Programs) -> None:
    load = drawn_load(6, ON_DEVICE)
    found, _ = serve_nxd(NxdPrograms, ON_DEVICE, load)
    assert_alike(found, expected(reference, load))
    assert {logprob for outcome in found.values() for logprob in outcome.logprobs} == {0.0}


@pytest.mark.parametrize("of", [HOST, CHUNKED], ids=["whole prompts", "chunks"])
@pytest.mark.parametrize("broken", [ParkedAtZero, LiveRowsOnly])
def test_the_comparison_fails_where_the_protocol_is_broken_on_purpose(
    serve_nxd: Serve, reference: Programs, broken: type[NxdPrograms], of: NxdShape
) -> None:
    load = drawn_load(3, of)
    wanted = expected(reference, load)
    safe, _ = serve_nxd(Interleaved, of, load)
    assert_alike(safe, wanted)
    spoiled, _ = serve_nxd(broken, of, load)
    with pytest.raises(AssertionError):
        assert_alike(spoiled, wanted)
    differing = [name for name in wanted if spoiled[name].tokens != safe[name].tokens]
    assert len(differing) >= 2


@pytest.mark.parametrize("broken", [ParkedAtZero, LiveRowsOnly])
def test_it_fails_without_mixed_steps_as_well_once_a_prompt_of_one_token_arrives(
    serve_nxd: Serve, reference: Programs, broken: type[NxdPrograms]
) -> None:
    class Apart(broken):  # type: ignore[misc, valid-type]  # a class in a variable
        capabilities = NxdPrograms.capabilities

    source = random.Random(9)
    long = engine_request("long", [source.randrange(VOCAB) for _ in range(20)], 30, GREEDY)
    short = engine_request("short", [source.randrange(VOCAB)], 10, GREEDY)
    load = Load([(0, long), (6, short)], {}, limits_of(HOST))
    wanted = expected(reference, load)
    assert_alike(serve_nxd(NxdPrograms, HOST, load)[0], wanted)
    spoiled, _ = serve_nxd(Apart, HOST, load)
    assert spoiled["long"].tokens != wanted["long"].tokens
