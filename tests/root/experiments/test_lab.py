"""The lab as its user has it: through a terminal, two at once, through a pipe, ended by a signal."""

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest
from tests.root.experiments.conftest import UNNOTICED, wait_until

from unnoticed.topology.processes import marked_processes
from unnoticed.topology.runs import RUNNER_MARK, clean

pytestmark = pytest.mark.root
PROMPT = b"unnoticed> "


class Terminal:
    """A lab behind a pseudo-terminal."""

    def __init__(self, *arguments):
        self.ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [*UNNOTICED, "lab", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self._unread = b""

    def read_until(self, mark, *, timeout_s=60.0):
        """Everything that was not read yet, up to and with the mark."""
        deadline = time.monotonic() + timeout_s
        while mark not in self._unread:
            left = deadline - time.monotonic()
            assert left > 0, f"no {mark!r} in {self._unread[-2000:]!r}"
            if select.select([self.ours], [], [], left)[0]:
                try:
                    self._unread += os.read(self.ours, 65536)
                except OSError:  # it has closed its side
                    assert mark in self._unread, self._unread[-2000:]
        seen, _, self._unread = self._unread.partition(mark)
        return (seen + mark).decode()

    def command(self, text):
        """Give a command; what it says, without escape sequences."""
        os.write(self.ours, text.encode() + b"\n")
        self.read_until(text.encode())  # the echo
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.read_until(PROMPT))

    def leave(self):
        os.write(self.ours, b"exit\n")
        said = self.read_until(b"changed.")
        return self.process.wait(30), said


@pytest.fixture
def open_lab(small_plan):
    terminals = []

    def make(*options):
        terminals.append(Terminal(small_plan, *options))
        terminals[-1].read_until(PROMPT)
        return terminals[-1]

    yield make
    for terminal in terminals:
        terminal.process.kill()
        terminal.process.wait(10)
        os.close(terminal.ours)
    clean()


def processes_of(lab):
    """Those that it started and that are still there."""
    runner = f"{lab.process.pid}:"
    return [each for each in marked_processes(RUNNER_MARK) if each.marks[RUNNER_MARK].startswith(runner)]


def test_two_migrations_under_load_a_link_cut_and_restored_and_all_clean(open_lab, machine):
    before = machine()
    lab = open_lab()
    assert "guest toward a" in lab.command("tables")
    assert "Migrated from a to b" in lab.command("migrate")
    assert "guest toward b" in lab.command("tables")
    assert " 0% packet loss" in lab.command("c1 ping -c 2 -i 0.2 guest")
    lab.command("link s1 c1 down")
    time.sleep(0.3)
    assert re.search("c1: none of [0-9]+ probes was answered", lab.command("probe c1"))
    lab.command("link s1 c1 up")
    wait_until(lambda: "c1: 100 of 100 probes answered" in lab.command("probe"), what="the link back", timeout_s=10)
    lab.command("link s1>c1 loss 100%")
    time.sleep(0.3)
    assert re.search("c1: none of [0-9]+ probes was answered", lab.command("probe c1"))
    lab.command("link s1 c1 up")
    wait_until(lambda: "c1: 100 of 100 probes answered" in lab.command("probe"), what="the link whole", timeout_s=10)
    assert "Migrated from b to a" in lab.command("migrate")
    assert "The guest runs at a." in lab.command("status")
    status, said = lab.leave()
    assert "Nothing was lost, repeated or changed." in said
    assert status == 0
    assert processes_of(lab) == []
    assert machine.is_again(before)


def test_an_interrupt_ends_the_command_and_not_the_lab(open_lab):
    lab = open_lab()
    os.write(lab.ours, b"watch\n")
    lab.read_until(b"longest silence")
    os.write(lab.ours, b"\x03")
    lab.process.send_signal(signal.SIGINT)  # it is not the session's foreground job here
    lab.read_until(PROMPT)
    assert "The guest runs at a." in lab.command("status")
    assert lab.leave()[0] == 0


def test_two_labs_at_once_see_their_own_frames_only_and_one_outlives_the_other(open_lab, tmp_path, machine):
    before = machine()
    labs = {name: open_lab("--out", tmp_path / name) for name in ("one", "two")}
    for lab in labs.values():
        lab.command("wireshark s1-eth1")
        assert "Capturing" in lab.command("wireshark c1-eth0")
    for name, lab in labs.items():
        lab.command(f"c1 echo this-is-{name} > /dev/udp/10.77.0.100/9")
    wait_until(lambda: b"this-is-one" in captured(tmp_path / "one"), what="the first one's own frame", timeout_s=5)
    wait_until(lambda: b"this-is-two" in captured(tmp_path / "two"), what="the second one's own frame", timeout_s=5)
    assert b"this-is-two" not in captured(tmp_path / "one")
    assert b"this-is-one" not in captured(tmp_path / "two")
    labs["one"].process.kill()
    labs["one"].process.wait()
    clean()
    assert "Migrated from a to b" in labs["two"].command("migrate")
    assert labs["two"].leave()[0] == 0
    assert machine.is_again(before)


def captured(folder):
    return b"".join(file.read_bytes() for file in folder.glob("lab-*.pcap"))


def test_a_signal_takes_the_lab_down(open_lab, machine):
    before = machine()
    lab = open_lab()
    assert processes_of(lab)
    lab.process.send_signal(signal.SIGTERM)
    assert lab.process.wait(30) == 130
    assert processes_of(lab) == []
    assert machine.is_again(before)


def test_commands_from_a_pipe_and_an_exit_code_for_those_that_failed(small_plan, machine):
    before = machine()

    def lab(commands):
        return subprocess.run(
            [*UNNOTICED, "lab", str(small_plan)],
            input=commands,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    fine = lab("migrate\nstatus\n")
    assert fine.returncode == 0, fine.stderr
    assert "Migrated from a to b" in fine.stdout
    assert "The guest runs at b." in fine.stdout
    wrong = lab(
        "link s1 nowhere down\nfrobnicate\nwireshark s9-eth1\nprobe c7\nlink s1\nlink s1>c1 down\n"
        "x nobody\npingall\nstatus\n"
    )
    assert wrong.returncode == 1
    said = wrong.stdout
    assert "The fabric has no link 's1-nowhere'; its links are " in said
    assert "There is no command or node 'frobnicate'; help lists the commands." in said
    assert "wireshark: name an interface: a-eth0, " in said
    assert "probe: there is no client 'c7'; there are c1." in said
    assert '"s1>c1" is one direction, and a cut takes both: cut "s1-c1", or give "s1>c1" a loss of 100 %.' in said
    assert "x: it failed, and the lab goes on (KeyError: 'nobody')." in said
    assert "pingall is not for a lab, " in said
    assert "The guest runs at a." in said
    assert "Traceback" not in wrong.stderr
    assert machine.is_again(before)


def test_commands_of_a_file_after_one_at_a_node_are_the_console_s_own_until_one_exits(small_plan, tmp_path):
    commands = tmp_path / "commands"
    commands.write_bytes(b"caf\xff\nc1 echo this is $((6 * 7))\nstatus\npy exit()\nnothing\n")
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    with commands.open() as lines:
        done = subprocess.run(
            [*UNNOTICED, "lab", str(small_plan)],
            stdin=lines,
            env=strict,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert "There is no command or node 'caf'; help lists the commands." in done.stdout
    assert "this is 42" in done.stdout
    assert "The guest runs at a." in done.stdout
    assert done.stdout.endswith("Nothing was lost, repeated or changed.\n")


def test_a_case_that_the_plan_does_not_have_is_said(small_plan):
    done = subprocess.run(
        [*UNNOTICED, "lab", "claim", "--case", "nothing"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("--case nothing: the plan has no such case; its cases are: the claim, idle guest, ")
