"""Gate, listener filter, handshake monitor, and dirty tracking, each on the kernel itself."""

import contextlib
import select
import socket
import time

import numpy as np
import pytest

from unnoticed.agents import ram, soft_dirty
from unnoticed.agents.guest_process import GuestProcess, GuestSettings
from unnoticed.agents.host import discard
from unnoticed.agents.kernel import socket_filter
from unnoticed.agents.kernel.bridge_port import BridgePort, PortState
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.socket_diag import HandshakeMonitor
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, Ram, Super
from unnoticed.agents.tracking import available, track
from unnoticed.errors import MachineError, MigrationError

pytestmark = pytest.mark.root
PORT = 7400


@pytest.fixture
def spaces(fabric):
    made = {name: NetworkNamespace(fabric.places[name].pid) for name in ("a", "c1", "guest-a")}
    yield made
    for space in made.values():
        space.close()


@pytest.fixture
def gate(spaces):
    with spaces["a"].entered():
        port = BridgePort("guest")
    yield port
    port.set(PortState.FORWARDING)
    port.close()


@pytest.fixture
def guest_address(fabric):
    return fabric.places["guest-a"].ipv4, PORT


@pytest.fixture
def listener(spaces, guest_address):
    with spaces["guest-a"].entered():
        made = socket.create_server(guest_address)
    made.settimeout(10)
    yield made
    made.close()


@pytest.fixture
def monitor(spaces):
    with spaces["guest-a"].entered():
        made = HandshakeMonitor()
    yield made
    made.close()


@pytest.fixture
def dial(spaces, guest_address):
    """Begin to connect from c1, without waiting."""
    made = []

    def start():
        with spaces["c1"].entered():
            made.append(socket.socket())
        made[-1].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            made[-1].connect(guest_address)
        return made[-1]

    yield start
    for each in made:
        each.close()


def until(condition):
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_connected(client, wait_s=0.0):
    return bool(select.select([], [client], [], wait_s)[1])


def test_a_gate_is_the_state_of_the_bridges_port(fabric, gate):
    for state in (PortState.DISABLED, PortState.FORWARDING, PortState.DISABLED, PortState.DISABLED):
        gate.set(state)
        assert fabric.gate("a") == state


def test_nothing_passes_a_closed_gate_and_everything_an_open_one(gate, listener, dial):
    gate.set(PortState.DISABLED)
    client = dial()
    assert not is_connected(client, 0.2)
    gate.set(PortState.FORWARDING)
    assert is_connected(client, 10)  # its SYN is repeated


def test_a_port_that_is_not_there_is_an_error(spaces):
    with spaces["a"].entered(), pytest.raises(OSError, match="no interface"):
        BridgePort("nosuch")
    with spaces["c1"].entered():
        not_a_bridge_port = BridgePort("c1-eth0")
    with pytest.raises(OSError, match="bridge port state DISABLED"):
        not_a_bridge_port.set(PortState.DISABLED)
    not_a_bridge_port.close()


def test_a_hushed_listener_loses_every_syn_without_an_answer_and_takes_them_again_afterwards(listener, dial, monitor):
    socket_filter.drop_new_connections(listener)
    client = dial()
    assert not is_connected(client, 0.2)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0  # no reset either
    assert monitor.half_open() == 0
    socket_filter.accept_new_connections(listener)
    assert is_connected(client, 10)
    listener.accept()[0].close()


def test_hushing_twice_or_unhushing_a_listener_that_speaks_does_no_harm(listener, dial):
    socket_filter.accept_new_connections(listener)
    socket_filter.drop_new_connections(listener)
    socket_filter.drop_new_connections(listener)
    socket_filter.accept_new_connections(listener)
    assert is_connected(dial(), 10)
    listener.accept()[0].close()


def test_the_monitor_sees_a_handshake_that_lacks_its_end_and_the_filter_lets_it_finish(
    spaces, listener, monitor, guest_address
):
    """A raw SYN from an address without anybody: nobody will ever answer, until the test does."""
    from scapy.layers.inet import IP, TCP

    assert monitor.half_open() == 0
    with spaces["c1"].entered():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sniffer = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        block = socket.socket()  # keeps c1's kernel from resetting what it has not begun
        block.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with raw, sniffer, block:
        block.bind(("10.77.1.1", 30045))
        block.listen()
        socket_filter_drop_everything(block)
        sniffer.settimeout(10)
        syn = IP(src="10.77.1.1", dst=guest_address[0]) / TCP(sport=30045, dport=PORT, flags="S", seq=1000)
        raw.sendto(bytes(syn), guest_address)
        while True:
            answer = IP(sniffer.recv(2000))[TCP]
            if answer.sport == PORT and answer.dport == 30045:
                break
        assert str(answer.flags) == "SA"
        assert monitor.half_open() == 1
        socket_filter.drop_new_connections(listener)
        assert monitor.half_open() == 1
        ack = IP(src="10.77.1.1", dst=guest_address[0]) / TCP(
            sport=30045, dport=PORT, flags="A", seq=1001, ack=answer.seq + 1
        )
        raw.sendto(bytes(ack), guest_address)
        until(lambda: monitor.half_open() == 0)
        accepted, peer = listener.accept()
        accepted.close()
        assert peer == ("10.77.1.1", 30045)
        until(lambda: monitor.closing() == 1)  # nobody acknowledges its end
        reset = IP(src="10.77.1.1", dst=guest_address[0]) / TCP(sport=30045, dport=PORT, flags="R", seq=1001)
        raw.sendto(bytes(reset), guest_address)
        until(lambda: monitor.closing() == 0)


def socket_filter_drop_everything(listener):
    """Lose every segment to this socket, so that its kernel answers nothing."""
    import ctypes
    import struct

    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0), 8)
    listener.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(program)))


# -- dirty tracking --------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(spaces, fabric, tmp_path):
    """A started guest process in its namespace; `boot(...)` then fills it."""
    settings = GuestSettings(
        addresses=(fabric.places["guest-a"].ipv4,),
        interface="eth0",
        congestion="cubic",
        events=str(tmp_path / "events.jsonl"),
        who="guest-a",
    )
    process = GuestProcess(settings, ram=Ram.create(memory_bytes=16 << 20), namespace=spaces["guest-a"])
    try:
        process.wait_ready()
        yield process
    finally:
        discard(process)


@pytest.fixture(params=available())
def how(request):
    """Each tracker that works on this kernel."""
    return request.param


def pages(runs):
    return [page for first, count in runs.tolist() for page in range(first, first + count)]


def test_exactly_the_pages_that_the_guest_wrote_are_found_and_only_once(shell, how):
    shell.boot(working_set_bytes=64 * 4096, dirty_bytes_per_s=4 << 20, pattern="sequential")
    tracker = track(shell, how)
    try:
        assert pages(tracker.harvest()) == []
        before = shell.ram.words.copy()
        shell.resume(moved=False)
        time.sleep(0.03)
        shell.pause()
        written = np.flatnonzero((shell.ram.words != before).any(axis=1)).tolist()
        assert len(written) > 10
        assert set(written) <= {0, *range(FIRST_DIRTIER_PAGE, FIRST_DIRTIER_PAGE + 64)}
        assert pages(tracker.harvest()) == written
        assert pages(tracker.harvest()) == []
    finally:
        tracker.close()


def test_no_write_is_lost_between_two_harvests_of_a_running_guest(shell, how):
    """The copy that a pre-copy would have: every harvested page is copied after the harvest that named it."""
    shell.boot(working_set_bytes=512 * 4096, dirty_bytes_per_s=100 << 20, pattern="uniform")
    tracker = track(shell, how)
    try:
        copy = shell.ram.words.copy()
        shell.resume(moved=False)
        while shell.ram.quads[Super.PAGES_WRITTEN] < 5000:
            for page in pages(tracker.harvest()):
                copy[page] = tracker.content.words[page]
        shell.pause()
        for page in pages(tracker.harvest()):
            copy[page] = tracker.content.words[page]
        assert (copy == shell.ram.words).all()
    finally:
        tracker.close()


@pytest.mark.parametrize("how", [name for name in available() if name != "comparison"])
def test_the_agents_own_writes_are_not_the_guests(shell, how):
    shell.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
    tracker = track(shell, how)
    try:
        shell.ram.words[2000] = 1
        assert pages(tracker.harvest()) == []
    finally:
        tracker.close()


def test_the_most_scattered_writes_there_can_be_are_found_in_one_harvest(shell, how):
    """Every second page is a run of its own: more runs than the kernel's own buffer holds at once."""
    shell.boot(working_set_bytes=3000 * 4096, dirty_bytes_per_s=400 << 20, pattern="uniform")
    tracker = track(shell, how)
    try:
        before = shell.ram.words.copy()
        shell.resume(moved=False)
        until(lambda: shell.ram.quads[Super.PAGES_WRITTEN] > 1000)
        shell.pause()
        written = np.flatnonzero((shell.ram.words != before).any(axis=1)).tolist()
        runs = tracker.harvest()
        assert pages(runs) == written
        assert len(runs) > 512
    finally:
        tracker.close()


def test_tracking_can_be_begun_again_and_be_ended_when_the_guest_is_gone(shell, how):
    for _ in range(3):
        tracker = track(shell, how)
        assert pages(tracker.harvest()) == []
        tracker.close()
    tracker = track(shell, how)
    shell._process.kill()
    shell._process.wait()
    assert pages(tracker.harvest()) == []
    tracker.close()


def test_what_the_kernel_does_not_help_with_is_said_when_it_is_asked_for_by_name(shell):
    held, shell.tracker_fd = shell.tracker_fd, None
    with pytest.raises(MachineError, match=r"Linux 6\.7 and later"):
        track(shell, "userfaultfd-wp")
    shell.tracker_fd = held


def test_the_next_best_tracker_is_taken_where_the_best_cannot_be_had(shell, monkeypatch):
    able = [name for name in available() if name != "userfaultfd-wp"]
    held, shell.tracker_fd = shell.tracker_fd, None
    tracker = track(shell)
    assert tracker.name == able[0]
    tracker.close()
    monkeypatch.setattr(soft_dirty, "works", lambda: False)
    tracker = track(shell)
    assert tracker.name == "comparison"
    tracker.close()
    shell.tracker_fd = held


def test_without_memory_for_a_copy_comparison_says_what_to_do(shell, monkeypatch):
    monkeypatch.setattr(ram, "_available_bytes", lambda: 1 << 20)
    with pytest.raises(MachineError, match="needs a copy of the guest's 16 MiB: only 1 MiB of memory are available"):
        track(shell, "comparison")


def test_a_page_that_is_written_and_written_back_while_it_is_sent_is_not_missed(shell):
    """What was sent is what later looks compare with, not what stood in the RAM before."""
    shell.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
    tracker = track(shell, "comparison")
    try:
        page = shell.ram.words[3000]
        page[7] = 1
        assert pages(tracker.harvest()) == [3000]
        page[7] = 2  # before it is read, to be sent
        sent = tracker.content.words[3000].copy()
        page[7] = 1
        assert pages(tracker.harvest()) == []
        assert (sent == page).all()
        page[511] = 5
        assert pages(tracker.harvest()) == [3000]
    finally:
        tracker.close()


def test_a_frozen_guest_writes_nothing_and_goes_on_afterwards(shell):
    shell.boot(working_set_bytes=64 * 4096, dirty_bytes_per_s=100 << 20, pattern="sequential")
    shell.resume(moved=False)
    written = shell.ram.quads
    until(lambda: written[Super.PAGES_WRITTEN] > 100)
    for _ in range(100):
        with shell.frozen():
            before = shell.ram.words.copy()
            time.sleep(0.001)
            assert (shell.ram.words == before).all()
    count = written[Super.PAGES_WRITTEN]
    until(lambda: written[Super.PAGES_WRITTEN] > count)
    assert shell.pause() > 0


def test_freezing_a_guest_that_has_ended_leaves_its_end_to_be_read(shell):
    shell._process.kill()
    with shell.frozen():
        pass
    with shell.frozen():
        pass
    assert shell.how_it_ended() == "was killed by SIGKILL"
    with shell.frozen():
        pass


# -- the guest's process ---------------------------------------------------------------------------------------------


def test_an_answer_that_comes_late_is_not_taken_for_another(shell):
    shell.boot(working_set_bytes=0, dirty_bytes_per_s=0, pattern="uniform")
    shell.resume(moved=False)
    shell._send(message="pause")  # its answer is never waited for
    assert shell.resume(moved=False) > 0
    assert shell.pause() > 0


def test_a_guest_that_is_gone_is_a_migration_error(shell):
    shell._process.kill()
    until(lambda: not shell.is_alive)
    with pytest.raises(MigrationError, match=r"is gone|ended|does not answer"):
        shell.pause()
