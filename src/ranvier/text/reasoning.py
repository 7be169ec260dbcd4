"""Reasoning text: what a model thinks aloud between two markers before it answers.

Sources for the markers: the chat templates of the families named below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningMarkers:
    """Text around the reasoning, neither part of it. In some tokenizers the markers are special tokens."""

    start: str
    end: str


_KNOWN = (
    ReasoningMarkers(start="<think>", end="</think>"),  # DeepSeek R1, Qwen 3, GLM, SmolLM3 and most others
    ReasoningMarkers(start="<|START_THINKING|>", end="<|END_THINKING|>"),  # Command A
    ReasoningMarkers(start="<seed:think>", end="</seed:think>"),  # Seed OSS
    ReasoningMarkers(start="[THINK]", end="[/THINK]"),  # Magistral
    ReasoningMarkers(start="<thought>", end="</thought>"),  # EXAONE Deep
    ReasoningMarkers(start="\u25c1think\u25b7", end="\u25c1/think\u25b7"),  # Kimi
)


def markers_in(template: str) -> ReasoningMarkers | None:
    """The markers of the model whose chat template this is; None if it names no end of reasoning."""
    return next((markers for markers in _KNOWN if markers.end in template), None)


def is_open_at_end(prompt: str, markers: ReasoningMarkers, *, continued: str = "") -> bool:
    """Whether what is generated after `prompt` starts inside the reasoning.

    It does if the prompt ends with the start marker (and white space), as where the template opens the reasoning. A
    marker further back does not count: people write about `<think>` too. `continued` is the text at the end of the
    prompt that the model wrote, where a reply is continued: a marker anywhere in it counts.
    """
    written = continued.rstrip()
    if markers.start in written or markers.end in written:
        return written.rfind(markers.start) > written.rfind(markers.end)
    return prompt.rstrip().removesuffix(written).rstrip().endswith(markers.start)


class ReasoningSplitter:
    """Divides the text of one generation into reasoning and content while it arrives.

    With W for any white space, the text is `W start W reasoning W end W content`. The start marker counts only there
    and, like everything after it, may be missing; with `is_open` the reasoning begins even without it. Markers later
    on are content. All white space marked W is dropped, as clients show the two parts apart; a text without reasoning
    is content as it is. How the text is cut into pieces makes no difference: what is undecided is held back.
    """

    def __init__(self, markers: ReasoningMarkers, *, is_open: bool) -> None:
        """`is_open`: the prompt ended inside the reasoning (`is_open_at_end`)."""
        self._markers = markers
        self._is_open = is_open
        self._phase: Literal["start", "reasoning", "gap", "content"] = "start"
        self._has_reasoning = False
        self._held = ""

    def push(self, text: str) -> tuple[str, str]:
        """`(reasoning, content)` that `text` makes final; either may be empty."""
        self._held += text
        if self._phase == "start":
            self._pass_start()
        reasoning = self._take_reasoning() if self._phase == "reasoning" else ""
        content = self._take_content() if self._phase in ("gap", "content") else ""
        return reasoning, content

    def flush(self) -> tuple[str, str]:
        """What was held back at the end of the generation: an unfinished marker is text. Call once, last."""
        held, self._held = self._held, ""
        if self._phase == "start":
            return (held.strip(), "") if self._is_open else ("", held)
        return held.rstrip(), ""

    def _pass_start(self) -> None:
        text, start = self._held.lstrip(), self._markers.start
        if text.startswith(start):
            self._held = text[len(start) :]
            self._phase = "reasoning"
        elif not start.startswith(text):
            self._phase = "reasoning" if self._is_open else "content"

    def _take_reasoning(self) -> str:
        if not self._has_reasoning:
            self._held = self._held.lstrip()
        end = self._markers.end
        body, found, rest = self._held.partition(end)
        if found:
            self._held, self._phase = rest, "gap"
            return body.rstrip()
        body = self._held[: len(self._held) - _overlap(self._held, end)].rstrip()
        self._held = self._held[len(body) :]
        self._has_reasoning |= bool(body)
        return body

    def _take_content(self) -> str:
        if self._phase == "gap":
            self._held = self._held.lstrip()
            if self._held:
                self._phase = "content"
        content, self._held = self._held, ""
        return content


def _overlap(text: str, marker: str) -> int:
    """Length of the longest beginning of `marker`, short of all of it, that `text` ends with."""
    return next((length for length in range(len(marker) - 1, 0, -1) if text.endswith(marker[:length])), 0)
