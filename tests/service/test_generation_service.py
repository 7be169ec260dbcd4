"""The use case: several sequences, cancelling, draining, tokenizing. The test gives the engine's events by hand."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from calls import GREEDY, TWO, cancelled, failures, listen, started

from ranvier.compose.router import make_metrics
from ranvier.core import EngineRequest, EventSink, FinishEvent, TokenChoice, TokenEvent
from ranvier.errors import (
    GenerationError,
    ShuttingDownError,
    UnhealthyError,
    ValidationError,
)
from ranvier.service import Completion, GenerateParameters, GenerationService, ServiceLimits
from serving import CAPABILITIES, END, HandEngine, PlayingEngine, byte_tokenizer, make_service, model_text, until


def best_of(*scripts: list[TokenChoice | int]) -> tuple[Completion, GenerationService, PlayingEngine]:
    engine = PlayingEngine(*scripts)

    async def main() -> tuple[Completion, GenerationService]:
        service = make_service(engine, limits=ServiceLimits(max_best_of=4))
        parameters = GenerateParameters(best_of=len(scripts), do_sample=True)
        return await service.generate("a", parameters), service

    completion, service = asyncio.run(main())
    return completion, service, engine


def test_best_of_gives_the_sequence_with_the_highest_mean_logprob_first() -> None:
    """Means: (-1 - 1) / 2 = -1; -0.75; (-0.9 - 0.9 - 0) / 3 = -0.6, though its sum is not the highest."""
    completion, _, _ = best_of(
        [TokenChoice(97, -1.0), TokenChoice(END, -1.0)],
        [TokenChoice(END, -0.75)],
        [TokenChoice(98, -0.9), TokenChoice(99, -0.9), TokenChoice(END, 0.0)],
    )
    assert completion.best.text == "bc"
    assert [other.text for other in completion.others] == ["a", ""]


def test_of_equal_sequences_the_first_is_the_best() -> None:
    completion, _, _ = best_of([97, END], [98, END])
    assert completion.best.text == "a"
    assert [other.text for other in completion.others] == ["b"]


def test_each_sequence_has_a_seed_of_its_own() -> None:
    completion, _, engine = best_of([97, END], [98, END])
    seeds = [request.sampling.seed for request in engine.requests]
    assert len(set(seeds)) == 2
    assert [completion.best.seed, *(other.seed for other in completion.others)] == seeds


def test_best_of_counts_as_one_request_and_one_success() -> None:
    """A regression: each sequence counted as a success."""
    _, service, _ = best_of([97, END], [98, END])
    assert service.metrics.request_count.value() == 1
    assert service.metrics.request_success.value() == 1


def test_one_failing_sequence_fails_the_request_and_frees_the_others() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        task = await started(service.generate("a", TWO), engine)
        engine.fail(0, "broken")
        with pytest.raises(GenerationError, match="broken"):
            await task
        assert engine.cancelled == [engine.requests[1].request_id]
        assert service.num_in_flight == 0
        assert failures(service) == {"generation": 1}

    asyncio.run(main())


class FailsSecond(HandEngine):
    """Is lost between the first and the second submit."""

    def submit(self, request: EngineRequest, sink: EventSink) -> None:
        super().submit(request, sink)
        self.is_healthy = False


def test_an_engine_lost_between_two_sequences_leaves_none_behind() -> None:
    """A regression: the first sequence went on with nobody to read it."""

    async def main() -> None:
        engine = FailsSecond()
        service = make_service(engine)
        with pytest.raises(UnhealthyError):
            await service.generate("a", TWO)
        assert engine.cancelled == [engine.requests[0].request_id]
        assert service.num_in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize("parameters", [GREEDY, TWO])
def test_a_caller_who_leaves_frees_every_slot(parameters: GenerateParameters) -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        task = await started(service.generate("a", parameters), engine)
        engine.say(0, "x")
        await cancelled(task)
        assert engine.cancelled == [request.request_id for request in engine.requests]
        assert service.num_in_flight == 0
        assert failures(service) == {"dropped": 1}
        await until(lambda: engine.num_open == 0, "the engine let go")

    asyncio.run(main())


@pytest.mark.parametrize("num_read", [0, 1])
def test_a_closed_stream_frees_its_slot(num_read: int) -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        stream = service.stream("a", GREEDY)
        first = asyncio.ensure_future(stream.__anext__())
        await until(lambda: len(engine.requests) == 1, "submitted")
        if num_read:
            engine.say(0, "x")
            assert (await first).piece.text == "x"
        await cancelled(first)
        await stream.aclose()
        assert engine.cancelled == [engine.requests[0].request_id]
        assert service.num_in_flight == 0
        assert failures(service) == {"dropped": 1}

    asyncio.run(main())


def test_a_stream_closed_at_its_last_token_was_served_not_dropped() -> None:
    """A regression: it counted as both."""

    async def main() -> None:
        engine = PlayingEngine([END])
        service = make_service(engine)
        stream = service.stream("a", GREEDY)
        assert (await stream.__anext__()).finished is not None
        await stream.aclose()
        assert service.metrics.request_success.value() == 1
        assert failures(service) == {}
        assert (service.num_in_flight, engine.cancelled) == (0, [])

    asyncio.run(main())


def test_tokens_after_a_caller_has_left_are_ignored() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        task = await started(service.generate("a", GREEDY), engine)
        await cancelled(task)
        request_id = engine.requests[0].request_id
        engine.emit(TokenEvent(request_id, 97, -0.5, ()), FinishEvent(request_id, "length"))
        assert service.metrics.request_success.value() == 0

    asyncio.run(main())


def test_draining_refuses_new_requests_and_lets_the_others_finish() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        whole = await started(service.generate("a", GREEDY), engine)
        stream = await started(listen(service), engine)
        service.drain()
        assert not service.is_healthy
        with pytest.raises(ShuttingDownError):
            await service.generate("a", GREEDY)
        with pytest.raises(ShuttingDownError):
            await listen(service)
        assert service.num_in_flight == 2
        engine.say(0, "x")
        engine.say(1, "y")
        engine.end(0)
        engine.end(1)
        assert (await whole).best.text == "x"
        assert "".join(item.piece.visible for item in await stream) == "y"
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_a_lost_engine_refuses_requests_and_is_not_healthy() -> None:
    async def main() -> None:
        engine = HandEngine()
        service = make_service(engine)
        assert service.is_healthy
        engine.is_healthy = False
        assert not service.is_healthy
        with pytest.raises(UnhealthyError):
            await service.generate("a", GREEDY)
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_what_the_engine_is_given() -> None:
    async def main() -> EngineRequest:
        engine = PlayingEngine([END])
        parameters = GenerateParameters(max_new_tokens=7, temperature=0.5, seed=9, top_n_tokens=2, stop=("x",))
        await make_service(engine).generate("ab", parameters)
        return engine.requests[0]

    request = asyncio.run(main())
    assert (request.prompt_ids, request.max_new_tokens) == ((97, 98), 7)
    assert request.eos_token_ids == {END}
    sampling = request.sampling
    assert (sampling.do_sample, sampling.temperature, sampling.seed, sampling.top_n_tokens) == (True, 0.5, 9, 2)


def test_every_sequence_has_an_id_of_its_own() -> None:
    async def main() -> None:
        engine = PlayingEngine([97, END])
        service = make_service(engine)
        for parameters in (GREEDY, TWO, TWO, GREEDY):
            await service.generate("a", parameters)
        assert len({request.request_id for request in engine.requests}) == 6

    asyncio.run(main())


class WatchedTokenizer:
    """Notes the thread on which each text is encoded."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.threads.append(threading.current_thread().name)
        return byte_tokenizer().encode(text, add_special_tokens=add_special_tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(byte_tokenizer(), name)


def test_only_long_texts_go_to_a_worker_thread() -> None:
    watched = WatchedTokenizer()

    async def main() -> None:
        engine = PlayingEngine([END])
        service = make_service(engine, tokenizer=watched)  # type: ignore[arg-type]  # quacks like one
        await service.generate("x" * 8192, GenerateParameters(truncate=3))
        await service.generate("x" * 8193, GenerateParameters(truncate=3))
        service.close()
        assert [request.prompt_ids for request in engine.requests] == [(120, 120, 120)] * 2

    asyncio.run(main())
    assert watched.threads[0] == threading.main_thread().name
    assert watched.threads[1].startswith("tokenizer")


@pytest.mark.parametrize("length", [2, 9000])
def test_a_text_that_cannot_be_tokenized_is_a_validation_error(length: int) -> None:
    async def main() -> None:
        service = make_service(PlayingEngine([END]))
        with pytest.raises(ValidationError, match=r"^tokenizer error "):
            await service.generate("x" * (length - 1) + "\ud800", GREEDY)
        service.close()
        assert failures(service) == {"validation": 1}
        assert service.num_in_flight == 0

    asyncio.run(main())


def test_a_text_without_tokens_is_refused() -> None:
    class Silent(WatchedTokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return []

    async def main() -> None:
        service = make_service(PlayingEngine([END]), tokenizer=Silent())  # type: ignore[arg-type]  # quacks like one
        with pytest.raises(ValidationError) as caught:
            await service.generate("\u200b", GREEDY)
        assert str(caught.value) == "`inputs` cannot be empty: it has no tokens"

    asyncio.run(main())


def test_the_limits_are_those_of_the_engine_that_is_connected_now() -> None:
    """An engine that was started anew may have been given other limits."""

    async def main() -> None:
        engine = PlayingEngine([END])
        service = GenerationService(model_text(), engine, ServiceLimits(), make_metrics(engine.info.limits))
        await service.generate("x" * 32, GREEDY)
        with pytest.raises(ValidationError, match="must have less than 32 tokens"):
            await service.generate("x" * 33, GenerateParameters(max_new_tokens=1))

    asyncio.run(main())


def test_without_log_probabilities_several_texts_can_be_had_but_not_the_best_of_more() -> None:
    capabilities = replace(CAPABILITIES, parameters=CAPABILITIES.parameters - {"best_of", "logprobs"})
    engine = PlayingEngine([97, END], [98, END], capabilities=capabilities)

    async def main() -> list[str]:
        service = make_service(engine, limits=ServiceLimits(max_best_of=4))
        for count in (1, 2):
            with pytest.raises(ValidationError, match="`best_of` is not supported by this server"):
                await service.choices("a", GenerateParameters(best_of=count + 1, do_sample=True), count)
        with pytest.raises(ValidationError, match="`best_of` is not supported by this server"):
            await service.generate("a", TWO)
        return [finished.text for finished in await service.choices("a", GenerateParameters(do_sample=True), 2)]

    assert asyncio.run(main()) == ["a", "b"]
    assert len(engine.requests) == 2
