"""What it costs to move a connection here and now: tried out with some of the agent's own, over loopback."""

from __future__ import annotations

import contextlib
import socket
import statistics
import struct

from unnoticed.agents import batches
from unnoticed.agents.batches import Departing
from unnoticed.agents.kernel import tcp_repair
from unnoticed.agents.urgency import Urgency
from unnoticed.clock import now_ns
from unnoticed.errors import MigrationError

_TIMES = 8
_FEW, _MANY = 4, 32  # connections at a time: one by one, and by the compiled loops
_RESET_ON_CLOSE = struct.pack("@ii", 1, 0)  # struct linger
_DEFAULT_NS = 150_000  # where it cannot be tried: twice what it costs on an idle machine
# Besides hold, dump, completion and revival: a look at the guest's table, waiting for it in the guest's loop, and that
# real ones are not as warm in the processor's caches as these. That one end works while the other does is left out: it
# needs a processor for each.
_ALL_OF_IT = 1.5


def connection_cost_ns() -> int:
    """From the hold of one connection to its life in another socket, in the namespace of the calling thread.

    The upper quartile of some tries. Needs CAP_NET_ADMIN and a loopback interface that is up; without them an estimate.
    """
    urgency = Urgency()
    urgency.begin()  # as it will be
    try:
        return int(_ALL_OF_IT * statistics.quantiles([_rehearse() for _ in range(_TIMES)], n=4)[2])
    except (MigrationError, OSError):
        return _DEFAULT_NS
    finally:
        urgency.end()


def _rehearse() -> float:
    """Move some connections to other sockets in their own place; returns what that took for each."""
    count = _MANY if batches.is_ready() else _FEW
    with contextlib.ExitStack() as opened:
        peers: list[socket.socket] = []
        departing: list[Departing] = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            for slot in range(count):
                peers.append(opened.enter_context(socket.create_connection(server.getsockname(), timeout=1)))
                connection = opened.enter_context(server.accept()[0])
                departing.append(Departing(slot, connection, tcp_repair.describe(connection, slot=slot)))
        start_ns = now_ns()
        batches.hold(departing)
        batch = batches.dump(departing)
        took_ns = now_ns() - start_ns
        descriptions = [each.description for each in departing if each.description is not None]
        for each in departing:
            each.socket.close()  # in repair mode: silent
        peers_as_bytes = [tcp_repair.sockaddr(description.remote) for description in descriptions]
        prepared = [opened.enter_context(tcp_repair.prepare(description)) for description in descriptions]
        start_ns = now_ns()
        arrived = batches.parse(batch.blob, connections=batch.connections)
        batches.complete(prepared, peers_as_bytes, arrived, range(len(arrived)))
        batches.leave(prepared)
        took_ns += now_ns() - start_ns
        for each_socket in (*peers, *prepared):  # none waits for anything afterwards
            each_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    return took_ns / count
