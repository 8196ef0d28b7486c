"""The guest's RAM as two processes see it: one memory, mapped twice."""

import os
from pathlib import Path

import numpy as np
import pytest

from unnoticed.agents import ram as layout
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_BYTES, SLOTS, Ram, Slot, SlotState, Super, slot_base

BYTES = (FIRST_DIRTIER_PAGE + 4) * PAGE_BYTES


@pytest.fixture
def ram():
    made = Ram.create(memory_bytes=BYTES)
    yield made
    made.close()


def test_bytes_and_words_are_views_of_one_memory(ram):
    ram.quads[slot_base(3) + Slot.KIND] = 0x0102030405060708
    assert ram.words[1 + 3, Slot.KIND] == 0x0102030405060708
    assert ram.view[slot_base(3) * 8 + 8 : slot_base(3) * 8 + 16].tobytes() == bytes(range(8, 0, -1))
    assert ram.address == ram.words.ctypes.data
    assert ram.pages == FIRST_DIRTIER_PAGE + 4


def test_a_second_mapping_of_the_descriptor_sees_the_same_memory(ram):
    other = Ram(os.dup(ram.fd), memory_bytes=BYTES)
    try:
        ram.words[-1, -1] = 77
        assert other.words[-1, -1] == 77
        assert other.address != ram.address
    finally:
        other.close()


def test_new_memory_is_zero_and_has_no_used_slot(ram):
    assert not ram.words.any()
    assert ram.used_slots() == []


def test_used_slots_ascend_and_are_all_that_are_not_free(ram):
    for slot, state in (
        (1023, SlotState.GREETING),
        (0, SlotState.SERVING),
        (17, SlotState.FINISHING),
        (18, SlotState.FREE),
    ):
        ram.quads[slot_base(slot) + Slot.STATE] = state
    assert ram.used_slots() == [0, 17, 1023]


def test_what_lies_in_a_slot_does_not_overlap_nor_leave_its_page():
    assert max(Slot) * 8 + 8 <= layout.IN_OFFSET
    assert layout.IN_OFFSET + layout.IN_BYTES <= layout.OUT_OFFSET
    assert layout.OUT_OFFSET + layout.OUT_BYTES <= PAGE_BYTES
    assert len(set(Slot)) == len(Slot.__members__)
    assert len(set(Super)) == len(Super.__members__)
    assert slot_base(SLOTS - 1) * 8 + PAGE_BYTES == FIRST_DIRTIER_PAGE * PAGE_BYTES


def test_more_memory_than_the_machine_has_is_refused_before_any_is_taken():
    with pytest.raises(OSError, match="memory"):
        Ram.create(memory_bytes=1 << 50)


def test_closing_gives_the_descriptor_and_the_memory_back():
    before = len(list(Path("/proc/self/fd").iterdir()))
    ram = Ram.create(memory_bytes=BYTES)
    ram.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ram.fd)


def test_a_guest_that_does_not_fit_the_layout_is_told_by_its_size():
    assert layout.SMALLEST_BYTES >= FIRST_DIRTIER_PAGE * PAGE_BYTES
    assert np.dtype(np.uint64).itemsize * layout.PAGE_WORDS == PAGE_BYTES
