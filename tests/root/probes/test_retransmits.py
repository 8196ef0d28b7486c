"""Retransmits counted in captures against the kernel's own count, with real TCP over a path that loses."""

import selectors
import socket
import threading
import time

import pytest

from unnoticed.probes.flows import address
from unnoticed.probes.packets import merge, parse
from unnoticed.probes.pcap import read_pcap
from unnoticed.probes.retransmits import count_retransmits
from unnoticed.tcpinfo import read_tcp_info

pytestmark = pytest.mark.root


def lose(namespace, per_10000, match=""):
    """Drop that share of what arrives at eth0 of the namespace."""
    chain = "type filter hook ingress device eth0 priority 0"
    rule = f"{match} numgen random mod 10000 < {per_10000} counter drop"
    namespace.run("nft", "-f", "-", text=f"table netdev loss {{\n chain c {{\n {chain};\n {rule}\n }}\n}}\n")


def exchange(a, b, *, bulk_bytes, requests, connections):
    """Run connections from a to b: the first uploads, the others exchange requests. (name, TcpInfo) of every end."""
    with b.inside():
        server = socket.create_server(("10.9.0.2", 7), backlog=64)
    readings = []
    lock = threading.Lock()

    def reading(one):
        names = ["{}:{}".format(*one.getsockname()), "{}:{}".format(*one.getpeername())]
        return ">".join(names), read_tcp_info(one)

    def talk(number):
        with a.inside():
            client = socket.create_connection(("10.9.0.2", 7))
        with lock:
            peer, _ = accepted.pop(client.getsockname())
        if number == 0:
            reader = threading.Thread(target=swallow, args=(peer, bulk_bytes))
            reader.start()
            client.sendall(bytes(bulk_bytes))
            reader.join()
        else:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(requests):
                client.sendall(bytes(40))
                swallow(peer, 40)
                peer.sendall(bytes(4000))
                swallow(client, 4000)
        time.sleep(0.5)  # the last acknowledgements, and retransmissions that cross them
        with lock:
            readings.extend([reading(client), reading(peer)])
        client.close()
        peer.close()

    accepted = Waiting(server)
    threads = [threading.Thread(target=talk, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted.close()
    return readings


class Waiting:
    """Accepts, and hands each connection to who asks for its peer's address."""

    def __init__(self, server):
        self.server, self.there, self.over = server, {}, False
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    def accept(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.server, selectors.EVENT_READ)
            while not self.over:
                if selector.select(0.1):
                    peer, name = self.server.accept()
                    self.there[name] = peer

    def pop(self, name):
        limit = time.monotonic() + 30
        while name not in self.there:
            assert time.monotonic() < limit
            time.sleep(0.01)
        return self.there.pop(name), name

    def close(self):
        self.over = True
        self.thread.join()
        self.server.close()


def swallow(one, count):
    while count:
        count -= len(one.recv(min(count, 1 << 18)))


def captured(tmp_path, point):
    return parse(read_pcap(tmp_path / f"{point}.pcap"))


@pytest.mark.parametrize("offloads", ["on", "off"])
@pytest.mark.parametrize(("at_b", "at_a"), [(100, 100), (300, 0), (0, 300)])
def test_retransmits_counted_at_each_sender_are_those_of_the_kernel(pair, observe, tmp_path, offloads, at_a, at_b):
    a, b = pair
    for end, share in ((a, at_a), (b, at_b)):
        end.run("ethtool", "-K", "eth0", "tso", offloads, "gso", offloads, "gro", offloads)
        lose(end, share, match="ip protocol tcp")
    points = [
        {"name": name, "pid": end.pid, "interface": "eth0", "file": str(tmp_path / f"{name}.pcap")}
        for name, end in (("a", a), ("b", b))
    ]
    settings = {"points": points, "switches": [], "guest_mac": "02:77:00:00:00:64", "events": str(tmp_path / "events")}
    observer = observe(settings)
    readings = exchange(a, b, bulk_bytes=6_000_000, requests=60, connections=6)
    assert observer.stop()["problems"] == []
    results = {}
    for point, local in (("a", "10.9.0.1"), ("b", "10.9.0.2")):
        for result in count_retransmits(captured(tmp_path, point), senders=[address(local)]):
            assert result.flow.incarnation == 0
            assert result.mss_known
            results[result.flow.name] = result
    kernel = {name: info.total_retrans for name, info in readings}
    assert {name: results[name].retransmits for name in kernel} == kernel
    assert sum(kernel.values()) > 10
    for name, info in readings:
        result = results[name]
        assert result.of_type("rto") + result.of_type("fast") + result.of_type("tlp") == result.retransmits
        assert sum(row.length for row in result.rows) == info_bytes(info), name
    print()
    for point, end in (("a", a), ("b", b)):
        local = [r for r in results.values() if r.flow.local_name.startswith({"a": "10.9.0.1", "b": "10.9.0.2"}[point])]
        print(
            point,
            {k: sum(r.of_type(k) for r in local) for k in ("rto", "fast", "tlp")},
            "spurious",
            sum(r.spurious for r in local),
            dict(
                zip(
                    names := (
                        "TCPFastRetrans",
                        "TCPSlowStartRetrans",
                        "TCPLossProbes",
                        "TCPTimeouts",
                        "TCPDSACKRecv",
                        "RetransSegs",
                    ),
                    end.snmp(*names),
                )
            ),
        )


def info_bytes(info):
    return info.bytes_retrans
