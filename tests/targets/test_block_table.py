"""Blocks are shared and taken back without ever running out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ranvier.targets.cpu.blocks import BlockTable

SLOTS, BLOCKS = 4, 6


def test_sharing_reads_the_source_and_owning_leaves_it_alone() -> None:
    table = BlockTable(2, 4)
    table.share(0, 1, 2)
    assert table.row(1, 4).tolist() == [0, 1, 6, 7]
    table.own(1, 1, 3)
    assert table.row(1, 4).tolist() == [0, 5, 6, 7]
    assert table.row(0, 4).tolist() == [0, 1, 2, 3]
    table.check()


def test_the_source_of_a_share_gets_new_blocks_when_it_is_overwritten() -> None:
    table = BlockTable(2, 2)
    table.share(0, 1, 1)
    table.own(0, 0, 2)
    assert table.row(0, 2).tolist() == [2, 1]
    assert table.row(1, 2).tolist() == [0, 3]
    table.check()


share = st.tuples(st.just("share"), st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1), st.integers(0, BLOCKS))
own = st.tuples(st.just("own"), st.integers(0, SLOTS - 1), st.integers(0, BLOCKS), st.integers(0, BLOCKS))


@given(st.lists(st.one_of(share, own), max_size=60))
def test_any_order_of_sharing_and_owning_keeps_the_books(steps: list[tuple[str, int, int, int]]) -> None:
    """Beside the table a plain model: which write each entry of each slot shows."""
    table = BlockTable(SLOTS, BLOCKS)
    shown = {(slot, index): (slot, index, -1) for slot in range(SLOTS) for index in range(BLOCKS)}
    memory = {
        int(block): (slot, index, -1) for slot in range(SLOTS) for index, block in enumerate(table.row(slot, BLOCKS))
    }
    for number, (kind, slot, other, count) in enumerate(steps):
        if kind == "share":
            table.share(slot, other, count)
            shown |= {(other, index): shown[slot, index] for index in range(count)}
        else:
            first, end = sorted((other, count))
            table.own(slot, first, end)
            for index in range(first, end):
                memory[int(table.row(slot, BLOCKS)[index])] = shown[slot, index] = (slot, index, number)
        table.check()
        for (owner, index), content in shown.items():
            assert memory[int(table.row(owner, BLOCKS)[index])] == content
