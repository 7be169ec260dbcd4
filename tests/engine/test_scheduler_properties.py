"""What holds for every plan, whatever arrives, ends and is cancelled."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from scheduler_helpers import Drive, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target and limits under which every prompt can make progress."""

    batch_size: int
    budget: int
    multiple: int
    mixed: bool
    sharing: bool
    max_input_tokens: int

    def drive(self) -> Drive:
        return Drive(
            batch_size=self.batch_size,
            budget=self.budget,
            multiple=self.multiple,
            mixed=self.mixed,
            sharing=self.sharing,
            max_input_tokens=self.max_input_tokens,
        )


@st.composite
def targets(draw: st.DrawFn) -> Target:
    multiple = draw(st.sampled_from([0, 2, 3, 4, 8]))
    max_input_tokens = draw(st.integers(1, 24))
    least = min(2 * multiple, max_input_tokens) if multiple else max_input_tokens
    return Target(
        batch_size=draw(st.integers(1, 4)),
        budget=draw(st.integers(least, least + 12)),
        multiple=multiple,
        mixed=draw(st.booleans()),
        sharing=draw(st.booleans()),
        max_input_tokens=max_input_tokens,
    )


class Watch:
    """Follows a drive from outside and judges every plan."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.drive = target.drive()
        self.num_arrived = 0
        self.arrived: list[str] = []
        self.placed: list[str] = []
        self.prefilled: list[str] = []

    def add(self, prompt_ids: list[int]) -> None:
        name = str(self.num_arrived)
        self.num_arrived += 1
        self.arrived.append(name)
        self.drive.add(name, prompt_ids)

    def cancel(self, name: str) -> None:
        self.drive.remove(name)
        for order in (self.arrived, self.placed, self.prefilled):
            if name in order:
                order.remove(name)

    def step(self) -> None:
        decoding = {name for name, sequence in self.drive.open.items() if sequence.is_decoding}
        layout = self.drive.step()
        prefill = [chunk for chunk in layout if chunk[0] not in decoding]
        self.placed += self.drive.placed
        self.prefilled += [name for name, start, length in prefill if start + length == self._num_prompt(name)]
        self.judge_order()
        self.judge_cuts(prefill)
        self.judge_decodes(layout, decoding, has_prefill=bool(prefill))
        self.judge_waiting(prefill)

    def judge_order(self) -> None:
        """Slots and first tokens come in the order of arrival."""
        assert self.placed == self.arrived[: len(self.placed)]
        assert self.prefilled == self.arrived[: len(self.prefilled)]

    def judge_cuts(self, prefill: Layout) -> None:
        assert sum(length for _, _, length in prefill) <= self.target.budget
        for name, start, length in prefill:
            end, num_prompt, multiple = start + length, self._num_prompt(name), self.target.multiple
            assert length > 0
            assert end == num_prompt or (multiple and end % multiple == 0), "cut at no multiple"
            assert start == 0 or num_prompt - start >= 2, "a lone last token"

    def judge_decodes(self, layout: Layout, decoding: set[str], *, has_prefill: bool) -> None:
        decoded = {name: length for name, _, length in layout if name in decoding}
        expected = decoding if self.target.mixed or not has_prefill else set()
        assert decoded == dict.fromkeys(expected, 1)

    def judge_waiting(self, prefill: Layout) -> None:
        """Something is computed, and whoever waits beside a free slot waits for the budget."""
        assert self.drive.plan.chunks
        if self.drive.scheduler.num_waiting and self.drive.scheduler.slots.num_free:
            assert prefill
        wanted = [chunk for chunk in self.drive.plan.chunks if chunk.wants_logits]
        assert len(wanted) == len(self.drive.plan.rows)
        slots = [chunk.slot for chunk in self.drive.plan.chunks]
        assert len(set(slots)) == len(slots)

    def _num_prompt(self, name: str) -> int:
        return self.drive.open[name].num_prompt


@given(target=targets(), data=st.data())
def test_every_plan_keeps_the_rules(target: Target, data: st.DataObject) -> None:
    watch = Watch(target)
    prompts = st.lists(st.integers(0, 1), min_size=1, max_size=target.max_input_tokens)
    for _ in range(data.draw(st.integers(1, 20))):
        for prompt_ids in data.draw(st.lists(prompts, max_size=3)):
            watch.add(prompt_ids)
        is_cancelling: bool = data.draw(st.booleans())
        if watch.drive.open and is_cancelling:
            watch.cancel(data.draw(st.sampled_from(sorted(watch.drive.open))))
        if watch.drive.scheduler.has_work:
            watch.step()


@given(target=targets(), data=st.data())
def test_every_prompt_is_computed_after_finitely_many_steps(target: Target, data: st.DataObject) -> None:
    """In each step at least one prompt token or decode happens, and here each request ends with its first token."""
    drive = target.drive()
    lengths = data.draw(st.lists(st.integers(1, target.max_input_tokens), max_size=12))
    for number, length in enumerate(lengths):
        drive.add(str(number), [number % 2] * length)
    for _ in range(sum(lengths)):
        for name, _, _ in drive.step() if drive.scheduler.has_work else []:
            if drive.open[name].num_generated:
                drive.remove(name)
    assert not drive.open
