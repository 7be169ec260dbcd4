"""A service small enough to work out by hand, over an engine that the test plays or over the scripted target.

Tokenizer: byte b is token b. 256 is `<|end|>`, which ends a generation, and 257 is `<|mark|>`: both are special. 258 is
one ordinary token that spells `one. two`. Ids from 259 on have no text, but a tokenizer that `thinks` has `<think>` and
`</think>` there, which are special. A chat becomes what its users say, and what others say with their role before it.
The scripted target has 264 token ids, so the tokenizer's fit. What it says to three prompts (S is the sum of the
slot's ids, p the position, all mod 264; see `ranvier.targets.scripted`):

    signal  S = 638   3 * 638 + 1 = 1915 -> 67 `C`
                      67 + 2 * 6 + 705 = 784 -> 256 `<|end|>`
    nerve   S = 544   3 * 544 + 1 = 1633 -> 49 `1`
                      49 + 2 * 5 + 593 = 652 -> 124 `|`
                      124 + 2 * 6 + 717 = 853 -> 61 `=`
                      61 + 2 * 7 + 778 = 853 -> 61 `=`
                      61 + 2 * 8 + 839 = 916 -> 124 `|`, and so on
    Hello   S = 500   3 * 500 + 1 = 1501 -> 181, a byte that starts no character: U+FFFD
                      181 + 2 * 5 + 681 = 872 -> 80 `P`
                      80 + 2 * 6 + 761 = 853 -> 61 `=`
                      61 + 2 * 7 + 822 = 897 -> 105 `i`
                      105 + 2 * 8 + 927 = 1048 -> 256 `<|end|>`

The chosen token has logit 8 and the other 263 have 0, so its log-probability is -ln(1 + 263 / e^8) = -0.084549.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from ranvier.compose.constraints import constraint_factory
from ranvier.compose.router import make_metrics
from ranvier.compose.step_recorder import StepRecorder
from ranvier.core import (
    Capabilities,
    EngineInfo,
    EngineRequest,
    Event,
    EventSink,
    FailEvent,
    FinishEvent,
    Limits,
    StartEvent,
    TokenChoice,
    TokenEvent,
)
from ranvier.core.dispatch import Dispatcher
from ranvier.engine import Engine, LocalEngineClient
from ranvier.errors import UnhealthyError
from ranvier.grammar import GrammarCompiler
from ranvier.service import GenerationService, GrammarChecker, ModelText, ServiceLimits
from ranvier.targets.scripted import NO_FAULT, ScriptedPrograms
from ranvier.text import ChatTemplate, Tokenizer
from ranvier.text.pieces import BYTE_OF_CHARACTER

END, MARK, ONE_TWO, THINK, END_THINK = 256, 257, 258, 259, 260
VOCAB_SIZE = 264
CHAT_TEMPLATE = """\
{% for message in messages %}
{% if message.role != 'user' %}{{ message.role }}: {% endif %}
{{- message.content }}
{%- endfor %}"""

LIMITS = Limits(batch_size=4, sequence_length=64, max_input_tokens=32, max_batch_prefill_tokens=64)
LONG = Limits(batch_size=4, sequence_length=2048, max_input_tokens=1024, max_batch_prefill_tokens=1024)
"""For prompts with tools."""

CAPABILITIES = Capabilities(mixed_steps=True, chunk_multiple=4, prefix_sharing=True)


@functools.cache
def byte_tokenizer(*, adds_mark: bool = False, thinks: bool = False) -> Tokenizer:
    """The tokenizer above; with `adds_mark` it puts `<|mark|>` before each text, as a BOS token."""
    return Tokenizer.from_json(_byte_library(adds_mark, thinks).to_str())


def _byte_library(adds_mark: bool = False, thinks: bool = False) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE(vocab=dict(BYTE_OF_CHARACTER), merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(name, normalized=False) for name in ("<|end|>", "<|mark|>")])
    library.add_tokens([AddedToken("one. two", normalized=False)])
    if thinks:
        library.add_special_tokens([AddedToken(name, normalized=False) for name in ("<think>", "</think>")])
    if adds_mark:
        library.post_processor = processors.TemplateProcessing(
            single="<|mark|> $A", special_tokens=[("<|mark|>", MARK)]
        )
    return library


@functools.cache
def tokenizer_file() -> Path:
    """The tokenizer above as a file, for grammars."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    path = Path(directory.name, "tokenizer.json")
    path.write_text(_byte_library().to_str(), encoding="utf-8")
    return path


def grammar_checker() -> GrammarChecker:
    """Compiles grammars over the tokenizer above."""
    return GrammarChecker(GrammarCompiler(tokenizer_file(), eos_token_ids=frozenset({END})))


def model_text(tokenizer: Tokenizer | None = None, template: str | None = CHAT_TEMPLATE) -> ModelText:
    """What the text half knows of the model; `template` None for one that cannot chat."""
    chat = None if template is None else ChatTemplate(template, bos_token="<|mark|>", eos_token="<|end|>")
    return ModelText(
        chat_template=chat,
        tokenizer=tokenizer or byte_tokenizer(),
        eos_token_ids=frozenset({END}),
        model_id="ranvier/scripted",
        model_sha="0123abc",
    )


def call_text(name: str, **arguments: Any) -> str:
    """What a model is forced to write to call a tool."""
    return json.dumps({"function": {"_name": name, **arguments}}, separators=(",", ":"), ensure_ascii=False)


class HandEngine:
    """An `EngineClient` whose events the test gives. A cancelled request ends on the next turn of the event loop."""

    def __init__(self, limits: Limits = LIMITS, capabilities: Capabilities = CAPABILITIES) -> None:
        self.info = EngineInfo(target="hand", limits=limits, capabilities=capabilities, details={})
        self.is_healthy = True
        self.requests: list[EngineRequest] = []
        self.cancelled: list[str] = []
        self.on_submit: Callable[[], object] = lambda: None
        self.on_cancel: Callable[[], object] = lambda: None
        self._dispatcher = Dispatcher()

    @property
    def num_open(self) -> int:
        """Requests without a terminal event."""
        return self._dispatcher.num_open

    def submit(self, request: EngineRequest, sink: EventSink) -> None:
        if not self.is_healthy:
            raise UnhealthyError
        self._dispatcher.open(request.request_id, sink)
        self.requests.append(request)
        self.on_submit()

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)
        asyncio.get_running_loop().call_soon(self.emit, FinishEvent(request_id, "cancelled"))
        self.on_cancel()

    def emit(self, *events: Event) -> None:
        """Hand events over together, as an engine does after a step."""
        self._dispatcher.dispatch(events)

    def say(self, index: int, text: str) -> None:
        """One token for each byte of `text`, all in one step, for the request that came as number `index`."""
        request_id = self.requests[index].request_id
        self.emit(*(TokenEvent(request_id, byte, -0.5, ()) for byte in text.encode()))

    def end(self, index: int) -> None:
        """The end token for request number `index`."""
        request_id = self.requests[index].request_id
        self.emit(TokenEvent(request_id, END, -0.25, ()), FinishEvent(request_id, "eos_token"))

    def fail(self, index: int, message: str) -> None:
        """The failure of request number `index`."""
        self.emit(FailEvent(self.requests[index].request_id, message))

    async def close(self) -> None:
        self._dispatcher.fail_all("the engine was stopped")


Script = Sequence[int | TokenChoice]


class PlayingEngine(HandEngine):
    """Plays one script for each request, in turn and from the start again: token by token, a step each.

    Plain ids get the log-probability -0.5. `max_new_tokens` and the end ids are kept as the real engine keeps them.
    `ending` gives the terminal event of a script that ran out; without one the request stays open.
    """

    def __init__(
        self,
        *scripts: Script,
        ending: Callable[[str], Event] | None = None,
        limits: Limits = LIMITS,
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        super().__init__(limits, capabilities)
        self._scripts = scripts
        self._ending = ending

    def submit(self, request: EngineRequest, sink: EventSink) -> None:
        super().submit(request, sink)
        script = self._scripts[(len(self.requests) - 1) % len(self._scripts)]
        loop = asyncio.get_running_loop()
        loop.call_soon(self.emit, StartEvent(request.request_id, 0.0, 0))
        loop.call_soon(self._step, request, list(script), 0)

    def _step(self, request: EngineRequest, script: list[int | TokenChoice], index: int) -> None:
        request_id = request.request_id
        if request_id in self.cancelled:
            return
        if index == len(script):
            if self._ending is not None:
                self.emit(self._ending(request_id))
            return
        item = script[index]
        choice = TokenChoice(item, -0.5) if isinstance(item, int) else item
        token = TokenEvent(request_id, choice.token_id, choice.logprob, choice.top)
        if choice.token_id in request.eos_token_ids:
            self.emit(token, FinishEvent(request_id, "eos_token"))
        elif index + 1 == request.max_new_tokens:
            self.emit(token, FinishEvent(request_id, "length"))
        else:
            self.emit(token)
            asyncio.get_running_loop().call_soon(self._step, request, script, index + 1)


def make_service(
    engine: HandEngine,
    *,
    tokenizer: Tokenizer | None = None,
    limits: ServiceLimits | None = None,
    template: str | None = CHAT_TEMPLATE,
    grammars: GrammarChecker | None = None,
    text: ModelText | None = None,
) -> GenerationService:
    """A service over an engine that the test plays. It starts no thread for short prompts without grammars."""
    metrics = make_metrics(engine.info.limits)
    return GenerationService(
        text or model_text(tokenizer, template), engine, limits or ServiceLimits(), metrics, grammars
    )


@asynccontextmanager
async def scripted_service(
    *,
    limits: Limits = LIMITS,
    service_limits: ServiceLimits | None = None,
    fault_token: int = NO_FAULT,
    template: str | None = CHAT_TEMPLATE,
    adapters: tuple[str, ...] = (),
) -> AsyncIterator[GenerationService]:
    """A service over the real engine, on a thread of its own, with the scripted target. Grammars hold it.

    Among tokens with equal logits a greedy request takes the smallest id: where the grammar forbids the token that the
    arithmetic gives, that is the smallest byte allowed.
    """
    programs = ScriptedPrograms(
        num_slots=limits.batch_size,
        sequence_length=limits.sequence_length,
        vocab_size=VOCAB_SIZE,
        fault_token=fault_token,
        adapters=adapters,
    )
    info = EngineInfo(target="scripted", limits=limits, capabilities=programs.capabilities, details=programs.details)
    metrics = make_metrics(limits)
    make_constraint = constraint_factory(tokenizer_file())
    on_stats = StepRecorder(metrics, limits)
    client = LocalEngineClient(Engine(programs, limits), info, on_stats, programs.release, make_constraint)
    text, operator = model_text(template=template), service_limits or ServiceLimits()
    service = GenerationService(text, client, operator, metrics, grammar_checker())
    try:
        yield service
    finally:
        service.close()
        await client.close()


async def until(condition: Callable[[], bool], what: str, *, turns: int = 1000) -> None:
    """Let the event loop turn until `condition` holds; fails after `turns`. For engines without a thread."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"after {turns} turns of the event loop still not: {what}")
