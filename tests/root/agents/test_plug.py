"""A plug that is full to the last byte: it lets go all the same."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

# In a network namespace of its own: a link to another one, and a plug on it that is filled and then let go.
SCRIPT = """
import json, socket, subprocess, sys, time

from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.plug import Plug

quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; "  # or discovery takes its part of the room
subprocess.run(quiet, shell=True, check=True)
other = subprocess.Popen(["unshare", "-n", "sh", "-c", quiet + "echo; exec sleep 60"], stdout=subprocess.PIPE)
try:
    other.stdout.readline()
    for words in (
        f"ip link add port type veth peer name eth0 netns {other.pid}",
        f"nsenter -t {other.pid} -n ip link set eth0 up",
        "ip link set port up",
    ):
        subprocess.run(words.split(), check=True)
    plug = Plug("port", guest=(NetworkNamespace(other.pid), "eth0"), limit_bytes=1 << 20)
    plug.arm(limit_bytes=4096)
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.bind(("port", 0))
    refused = 0
    for number in range(2000):
        frame = bytes(12) + bytes([0x88, 0xB6]) + number.to_bytes(4, "big")
        try:
            sender.send(frame.ljust(int(sys.argv[1]), bytes(1)))
        except OSError:
            refused += 1
    held = vars(plug.held())
    frames = plug.empty()
    after = vars(plug.held())
finally:
    other.kill()
    other.wait()
print(json.dumps({"refused": refused, "held": held, "after": after,
    "numbers": [int.from_bytes(frame[24:28], "big") for frame in frames]}))
"""


@pytest.mark.parametrize("length", [64, 128, 1024])
def test_a_plug_without_room_for_one_frame_more_gives_back_what_it_holds(length):
    command = ["unshare", "-n", sys.executable, "-c", SCRIPT, str(length)]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout)
    frames, held_bytes = said["held"]["frames"], said["held"]["bytes"]
    assert held_bytes == frames * length == 4096
    assert said["refused"] == 2000 - frames
    assert said["numbers"] == list(range(frames))
    assert (said["after"]["frames"], said["after"]["bytes"]) == (0, 0)
