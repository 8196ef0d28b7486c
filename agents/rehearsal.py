"""What it costs to move a connection here and now: tried out with one of the agent's own, over loopback."""

from __future__ import annotations

import socket
import statistics
import struct

from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.kernel.tcp_repair import TcpState
from unnoticed.clock import now_ns
from unnoticed.errors import MigrationError

_TIMES = 16
_RESET_ON_CLOSE = struct.pack("@ii", 1, 0)  # struct linger
_DEFAULT_NS = 150_000  # where it cannot be tried: twice what it costs on an idle machine
# Besides hold, dump and restore: duplicates of the socket for agent and guest, waiting for it in the guest's loop, and
# that real ones are not as warm in the processor's caches as this one. Measured: 0.3 to 0.6 of the rehearsed part.
_ALL_OF_IT = 1.75


def connection_cost_ns() -> int:
    """From the hold of one connection to its life in another socket, in the namespace of the calling thread.

    The upper quartile of some tries. Needs CAP_NET_ADMIN and a loopback interface that is up; without them an estimate.
    """
    try:
        return int(_ALL_OF_IT * statistics.quantiles([_rehearse() for _ in range(_TIMES)], n=4)[2])
    except (MigrationError, OSError):
        return _DEFAULT_NS


def _rehearse() -> int:
    """Move one connection to another socket in its own place; returns what that took."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname(), timeout=1)
        connection, _ = server.accept()
    with peer:
        try:
            start_ns = now_ns()
            window = tcp_repair.hold(connection)
            packed = tcp_repair.dump(connection, slot=0, window=window)[0].pack()
            dumped_ns = now_ns()
        finally:
            connection.close()  # in repair mode: silent
        middle_ns = now_ns()
        with tcp_repair.restore(TcpState.unpack(memoryview(packed))[0]) as restored:
            tcp_repair.leave(restored)
            end_ns = now_ns()
            for each in (peer, restored):  # neither waits for anything afterwards
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    return dumped_ns - start_ns + end_ns - middle_ns
