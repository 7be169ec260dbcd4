"""The service over the real engine and the scripted target: text that can be worked out, see `serving`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from ranvier.errors import GenerationError, UnhealthyError
from ranvier.service import Completion, Finished, GenerateParameters, GenerationService, ServiceLimits
from serving import END, LIMITS, scripted_service

T = TypeVar("T")


def with_service(use: Callable[[GenerationService], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        async with scripted_service(**options) as service:
            return await use(service)

    return asyncio.run(main())


def generate(inputs: str, **values: Any) -> Finished:
    async def use(service: GenerationService) -> Completion:
        return await service.generate(inputs, GenerateParameters(**values))

    return with_service(use).best


@pytest.mark.parametrize(
    ("inputs", "ids", "text", "reason"),
    [
        ("signal", [67, END], "C", "eos_token"),
        ("nerve", [49, 124, 61, 61, 124], "1|==|", "length"),
        ("Hello", [181, 80, 61, 105, END], "\ufffdP=i", "eos_token"),
    ],
)
def test_the_tokens_are_those_worked_out_by_hand(inputs: str, ids: list[int], text: str, reason: str) -> None:
    finished = generate(inputs, max_new_tokens=5)
    assert [token.token_id for token in finished.tokens] == ids
    assert (finished.text, finished.reason, finished.num_input) == (text, reason, len(inputs))
    assert finished.mean_logprob == pytest.approx(-0.084549, abs=1e-6)


def test_truncation_gives_what_the_last_tokens_alone_give() -> None:
    assert generate("ab nerve", truncate=5, max_new_tokens=4).text == "1|=="


def test_a_stop_string_ends_the_generation_early() -> None:
    finished = generate("nerve", stop=("==",))
    assert (finished.text, finished.reason) == ("1|==", "stop_sequence")


def test_sampling_with_one_candidate_is_greedy_with_certainty() -> None:
    finished = generate("nerve", do_sample=True, top_k=1, seed=3, max_new_tokens=4)
    assert (finished.text, finished.seed, finished.mean_logprob) == ("1|==", 3, 0.0)


HOT: dict[str, Any] = {"do_sample": True, "temperature": 4.0, "max_new_tokens": 24}


def ids_of(finished: Finished) -> list[int]:
    return [token.token_id for token in finished.tokens]


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others() -> None:
    """At temperature 4 the scripted token has e^2 / (e^2 + 263) = 2.7 % of the probability: draws hardly ever agree."""
    first = generate("nerve", seed=7, **HOT)
    assert ids_of(generate("nerve", seed=7, **HOT)) == ids_of(first)
    assert ids_of(generate("nerve", seed=8, **HOT)) != ids_of(first)


def test_a_seed_that_was_drawn_gives_the_same_tokens_when_it_is_sent_back() -> None:
    first = generate("nerve", **HOT)
    assert ids_of(generate("nerve", seed=first.seed, **HOT)) == ids_of(first)


def test_tokens_do_not_depend_on_the_neighbours() -> None:
    prompts = ["signal", "nerve", "Hello", "nerve", "a", "bb", "nervous"]

    async def together(service: GenerationService) -> list[Completion]:
        work = [service.generate(prompt, GenerateParameters(seed=5, **HOT)) for prompt in prompts]
        return await asyncio.gather(*work)

    shared = with_service(together)
    assert [ids_of(each.best) for each in shared] == [ids_of(generate(prompt, seed=5, **HOT)) for prompt in prompts]


def test_a_prompt_seen_before_is_partly_reused_and_gives_the_same_text() -> None:
    """16 tokens, in blocks of 4, with 2 at least left to compute: 12 are reused."""

    async def twice(service: GenerationService) -> tuple[Finished, Finished]:
        parameters = GenerateParameters(max_new_tokens=8)
        first = await service.generate("nerve and signal", parameters)
        return first.best, (await service.generate("nerve and signal", parameters)).best

    first, second = with_service(twice)
    assert (first.num_reused, second.num_reused) == (0, 12)
    assert second.text == first.text


def test_a_stream_gives_the_same_tokens() -> None:
    async def use(service: GenerationService) -> list[int]:
        return [item.piece.token_id async for item in service.stream("Hello", GenerateParameters())]

    assert with_service(use) == [181, 80, 61, 105, END]


def test_a_device_fault_fails_the_request_with_its_reason_and_the_next_one_is_served() -> None:
    """The second token of `Hello` is 80, `P`: its decode is the step that faults."""

    async def use(service: GenerationService) -> tuple[str, str]:
        with pytest.raises(GenerationError) as caught:
            await service.generate("Hello", GenerateParameters())
        assert service.num_in_flight == 0
        return str(caught.value), (await service.generate("signal", GenerateParameters())).best.text

    assert with_service(use, fault_token=80) == ("the step that held this request failed on the device", "C")


def test_a_lost_device_fails_requests_and_the_service_is_not_healthy_any_more() -> None:
    """Three failed steps in a row: prompts that begin with `P` fault at once."""

    async def use(service: GenerationService) -> None:
        for _ in range(3):
            with pytest.raises(GenerationError):
                await service.generate("P", GenerateParameters())
        assert not service.is_healthy
        with pytest.raises(UnhealthyError):
            await service.generate("signal", GenerateParameters())
        assert service.num_in_flight == 0

    with_service(use, fault_token=80)


def test_more_requests_than_slots_wait_for_their_turn() -> None:
    async def use(service: GenerationService) -> list[str]:
        work = [service.generate("nerve", GenerateParameters(max_new_tokens=4)) for _ in range(12)]
        return [completion.best.text for completion in await asyncio.gather(*work)]

    assert LIMITS.batch_size < 12
    assert with_service(use, service_limits=ServiceLimits(max_concurrent_requests=12)) == ["1|=="] * 12


def test_a_caller_who_leaves_frees_the_only_slot() -> None:
    """`nerve` would go on for all 4000 tokens; the second request has the one slot long before that."""
    limits = replace(LIMITS, batch_size=1, sequence_length=4005)

    async def use(service: GenerationService) -> tuple[str, float]:
        stream = service.stream("nerve", GenerateParameters(max_new_tokens=4000))
        await stream.__anext__()
        await stream.aclose()
        second = await service.generate("signal", GenerateParameters())
        return second.best.text, service.metrics.batch_inference_count.value(method="decode")

    text, num_decodes = with_service(use, limits=limits)
    assert text == "C"
    assert num_decodes < 4000
