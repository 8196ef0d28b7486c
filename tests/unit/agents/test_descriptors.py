"""The table of file descriptors, grown in a process of its own."""

import subprocess
import sys

CODE = """
import os, resource, sys
from unnoticed.agents.kernel import descriptors

count, most = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, most), most))
before = sorted(os.listdir("/proc/self/fd"))
descriptors.reserve(count)
assert sorted(os.listdir("/proc/self/fd")) == before
(size,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("FDSize"))
print(size, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def reserve(count, most):
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(count), str(most)], capture_output=True, text=True, check=True
    )
    return [int(word) for word in run.stdout.split()]


def test_there_is_room_for_so_many_and_what_is_open_anyway_without_one_staying_open():
    size, soft, hard = reserve(600, 1000)
    assert size >= 600 + 64
    assert (soft, hard) == (1000, 1000)


def test_a_limit_that_is_lower_is_used_up_to_its_end():
    size, soft, _ = reserve(600, 300)
    assert 300 <= size <= 512
    assert soft == 300
