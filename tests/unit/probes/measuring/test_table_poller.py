from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from itertools import pairwise

import pytest

from unnoticed.errors import RecordError
from unnoticed.probes.table_poller import TablePoller, learned_ports
from unnoticed.unixctl import Unixctl, UnixctlError

GUEST = "02:77:00:00:00:64"
HEAD = " port  VLAN  MAC                Age\n"


def table(port):
    return f"{HEAD}    {port}     0  {GUEST}    0\nLOCAL     0  02:77:01:00:00:07  299\n"


class Daemon:
    """Answers `fdb/show` as ovs-vswitchd does, in two pieces; `answer` may be changed."""

    def __init__(self, path):
        self.path, self.answer, self.asked = str(path), table(1), []
        self.slowness_s, self.spans_ns = 0.0, []  # how long it thinks, and when it was asked and had answered
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        connection, _ = self._listener.accept()
        self._listener.close()
        with connection, contextlib.suppress(ConnectionError):  # who asked has closed meanwhile
            while self.answer is not None and (data := connection.recv(4096)):
                asked_ns = time.monotonic_ns()
                time.sleep(self.slowness_s)
                question = json.loads(data)
                self.asked.append((question["method"], *question["params"]))
                said = json.dumps({"id": question["id"], "error": None, "result": self.answer}).encode()
                if question["method"] != "fdb/show":
                    said = json.dumps(
                        {"id": 0, "error": '"nonsense" is not a valid command\n', "result": None}
                    ).encode()
                connection.sendall(said[:20])
                connection.sendall(said[20:])
                self.spans_ns.append((asked_ns, time.monotonic_ns()))

    def join(self):
        self._thread.join(10)


@pytest.fixture
def daemon(tmp_path):
    return Daemon(tmp_path / "switch.ctl")


@pytest.fixture
def poller(daemon):
    poller = TablePoller("s1", control=daemon.path, ports={"1": "s1-eth1", "2": "s1-eth2"}, macs=[GUEST.upper()])
    yield poller
    poller.close()


def receive(poller, until):
    """What it has to tell, once `until` holds of that."""
    seen = []
    for _ in range(5000):
        assert select.select([poller], [], [], 10)[0], "it stays silent"
        seen += poller.receive()
        if until(seen):
            return seen
    raise AssertionError(seen)


def test_an_address_that_moved_is_told_once_with_both_ports(daemon, poller):
    assert poller.port == "s1-eth1"
    daemon.answer = table(2)
    [moved] = receive(poller, until=len)
    assert (moved.switch, moved.previous, moved.port, moved.mac) == ("s1", "s1-eth1", "s1-eth2", GUEST)
    asked = len(daemon.asked)
    assert receive(poller, until=lambda _: len(daemon.asked) > asked + 3) == []


def test_an_address_that_was_forgotten_and_comes_back_has_not_moved(daemon, poller):
    for answer in (HEAD, table(1)):
        daemon.answer, asked = answer, len(daemon.asked)
        assert receive(poller, until=lambda _, asked=asked: len(daemon.asked) > asked + 3) == []


def test_a_daemon_that_is_slow_is_left_in_peace_for_four_times_as_long(daemon, poller):
    daemon.slowness_s, daemon.spans_ns = 0.01, []
    receive(poller, until=lambda _: len(daemon.spans_ns) > 4)
    slow = daemon.spans_ns[1:]  # the first one may have been asked before
    assert all(later[0] - earlier[1] > 3.9 * 10_000_000 for earlier, later in pairwise(slow))


def test_a_daemon_that_is_gone_is_told_once(daemon, poller):
    daemon.answer = None
    with pytest.raises(RecordError, match=r"s1: Open vSwitch at \S+ does not answer any more"):
        receive(poller, until=lambda _: False)
    daemon.join()
    assert poller.receive() == []


def test_where_nobody_listens_the_path_is_told(tmp_path):
    with pytest.raises(RecordError, match=r"s1: Open vSwitch does not answer at \S+/nobody: No such file"):
        TablePoller("s1", control=str(tmp_path / "nobody"), ports={}, macs=[GUEST])


def test_what_the_daemon_refuses_is_an_error(daemon):
    control = Unixctl(daemon.path, timeout_s=10)
    with pytest.raises(UnixctlError, match='refused: "nonsense" is not a valid command'):
        control.ask("nonsense")
    control.close()


def test_only_addresses_that_were_asked_for_are_read():
    assert learned_ports(table(7), [GUEST]) == [(GUEST, "7")]
    assert learned_ports(table(7), ["02:77:01:00:00:07"]) == [("02:77:01:00:00:07", "LOCAL")]
    assert learned_ports("", [GUEST]) == []
