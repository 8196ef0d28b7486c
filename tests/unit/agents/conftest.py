"""Two ends of the migration protocol joined by a fake pipe, and a whole conversation to push through them."""

from dataclasses import astuple, is_dataclass

import numpy as np
import pytest

from unnoticed.agents import wire
from unnoticed.agents.wire import Role, Wire

KEY = bytes(range(32))
NONCES = {Role.SOURCE: b"\x01" * 32, Role.DESTINATION: b"\x02" * 32}
MEMORY_BYTES = 64 << 20
S, D = Role.SOURCE, Role.DESTINATION


def runs(*pairs):
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


class Conversation:
    """A whole migration as (sender, message), and what it takes to play it."""

    key, nonces, memory_bytes = KEY, NONCES, MEMORY_BYTES
    runs = staticmethod(runs)
    script = (
        (S, wire.Hello(nonce=NONCES[S], memory_bytes=MEMORY_BYTES, copying=wire.Copying.BOTH)),
        (D, wire.Welcome(nonce=NONCES[D])),
        (S, wire.Proof()),
        (D, wire.Prepared()),
        (S, wire.RoundStart(0)),
        (S, wire.Pages(runs((0, 16000)))),
        (S, wire.Coded(runs((16000, 384)), wire.Encoding.ZSTD, 1000)),
        (S, wire.RoundEnd(16384)),
        (D, wire.RoundAck(16384)),
        (S, wire.RoundStart(1)),
        (S, wire.Connections(3, b"three connections", (5,))),
        (S, wire.Owed(runs((1100, 15000), (16200, 100)))),
        (S, wire.RoundEnd(0)),
        (D, wire.RoundAck(0)),
        (S, wire.Divert(announce="garp", limit_bytes=1 << 20, limit_ns=10**9)),
        (S, wire.Final()),
        (S, wire.Positions(b"positions")),
        (S, wire.Pages(runs((0, 1), (7, 3), (10, 2), (16383, 1)))),
        (S, wire.Owed(runs((16301, 2)))),
        (S, wire.GuestState(2, b"two connections", (9, 1023))),
        (S, wire.Commit(final_pages=7, total_pages=16391, announce="garp", digest=b"\xd1" * 64, owed_pages=15102)),
        (D, wire.Ready(2)),
        (S, wire.Late((b"1" * 24, b"2" * 80))),
        (S, wire.Relinquish()),
        (D, wire.Resumed(1 << 50)),
        (D, wire.Complete(time_ns=1 << 51, pushed_pages=15000, demanded_pages=102)),
    )

    def ends(self, *, key=KEY, other_key=None, nonces=NONCES):
        """A fresh source and a fresh destination."""
        return {
            S: Wire(S, key=key, nonce=nonces[S]),
            D: Wire(D, key=other_key or key, nonce=nonces[D]),
        }

    def deliver(self, data, wire_, cuts=()):
        """Give `data` to an end, in pieces of at most what it wants, cut where `cuts` says as well."""
        messages, position = [], 0
        while position < len(data):
            stop = min([position + wire_.wanted, *(cut for cut in cuts if cut > position), len(data)])
            message = wire_.receive(data[position:stop])
            position = stop
            if message is not None:
                messages.append(message)
        return messages

    def say(self, ends, sender, message):
        """One message from one end to the other; what came out there."""
        came = self.deliver(ends[sender].send(message), ends[sender.peer])
        assert len(came) == 1
        return came[0]

    def played(self, count, **options):
        """Both ends after the first `count` messages."""
        ends = self.ends(**options)
        for sender, message in self.script[:count]:
            self.say(ends, sender, message)
        return ends

    def index(self, kind):
        """Where in the script the first message of a class is."""
        return next(number for number, (_, message) in enumerate(self.script) if isinstance(message, kind))

    def plain(self, message):
        """A message as something that == compares."""
        assert is_dataclass(message)
        fields = (value.tolist() if isinstance(value, np.ndarray) else value for value in astuple(message))
        return type(message), *fields


@pytest.fixture(scope="session")
def conversation():
    return Conversation()


def pytest_generate_tests(metafunc):
    if "step" in metafunc.fixturenames:  # each message of the conversation
        script = Conversation.script
        metafunc.parametrize(
            "step", range(len(script)), ids=[f"{n}-{type(m).__name__}" for n, (_, m) in enumerate(script)]
        )
