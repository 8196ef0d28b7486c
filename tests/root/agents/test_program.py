"""Real programs under watch: which pages they write, by every means that this machine has."""

import os
import sys

import numpy as np
import pytest

from unnoticed.agents.kernel.pagemap import PAGE_BYTES
from unnoticed.agents.program import Program
from unnoticed.errors import PlanError

pytestmark = pytest.mark.root

# Says where its memory is, then does to its pages what it is told to, and says so.
WRITER = """
import ctypes, mmap, sys
commands, answers = open(sys.argv[1]), open(sys.argv[2], "w")
maps = []
def more():
    maps.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    return ctypes.addressof(ctypes.c_char.from_buffer(maps[-1]))
address = more()
print(address, file=answers, flush=True)
for number, line in enumerate(commands, start=1):
    what, *pages = line.split()
    if what == "map":
        address = more()
    for page in map(int, pages):
        if what == "read":
            maps[-1][page * 4096]
        else:
            maps[-1][page * 4096 + 7] = number
    print(address, file=answers, flush=True)
"""


@pytest.fixture(params=[pytest.param("userfaultfd-wp", marks=pytest.mark.since_kernel("6.7")), "comparison"])
def writer(request, tmp_path):
    """The program, watched by each means, and a function that tells it what to do and gives its answer."""
    to, back = tmp_path / "to", tmp_path / "back"
    os.mkfifo(to)
    os.mkfifo(back)
    program = Program([sys.executable, "-c", WRITER, str(to), str(back)], tracking=request.param)
    assert program.watch.name == request.param
    with to.open("w") as commands, back.open() as answers:

        def tell(line=None):
            if line is not None:
                print(line, file=commands, flush=True)
            return int(answers.readline())

        yield program, tell
        program.end()


def pages_at(program, address):
    """What a look finds in the mebibyte at an address, as pages of it."""
    pages = program.watch.look().astype(np.int64) - address // PAGE_BYTES
    return sorted(pages[(pages >= 0) & (pages < 256)].tolist())


def test_the_pages_that_a_program_writes_are_found_once_each(writer):
    program, tell = writer
    address = tell()
    program.watch.look()
    tell("write 3 17 200 201")
    assert pages_at(program, address) == [3, 17, 200, 201]
    assert pages_at(program, address) == []
    tell("write 200 5")
    assert pages_at(program, address) == [5, 200]


def test_memory_that_comes_later_is_watched_too(writer):
    program, tell = writer
    tell()
    program.watch.look()
    address = tell("map 9")
    assert pages_at(program, address) == [9]
    tell("write 10")
    assert pages_at(program, address) == [10]


def test_a_page_that_is_only_read_was_not_written(writer):
    program, tell = writer
    address = tell()
    tell("write 6")
    tell("read 4")
    program.watch.look()
    tell("read 4 6")
    tell("write 5")
    assert pages_at(program, address) == [5]


def test_a_program_runs_as_if_nobody_watched_and_is_ended_with_its_exit_status(tmp_path):
    out = tmp_path / "out"
    code = (
        "found = sorted(map(int, os.listdir('/proc/self/fd'))); open(sys.argv[1], 'w').write(repr(found)); sys.exit(7)"
    )
    program = Program([sys.executable, "-c", f"import os, sys; {code}", str(out)])
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert len(program.watch.look()) == 0
    assert not program.is_alive
    assert program.end() == 7
    assert out.read_text() == "[0, 1, 2, 3]"  # the last one is that of the folder it lists: none of ours


def test_what_cannot_be_started_is_said_in_a_sentence():
    with pytest.raises(PlanError, match="no-such-program: this cannot be started"):
        Program(["./no-such-program"])
