"""Constructed packet tables, and captures made by scapy."""

from dataclasses import fields

import numpy as np
import pytest

from unnoticed.probes.packets import ACK, Packets
from unnoticed.probes.pcap import Frames

SENDER, RECEIVER = 0x0A4D0101, 0x0A4D0064
NUMBERS = {"sack": (4, 2), "udp_payload": (24,)}


class Trace:
    """A conversation of one connection as seen at its sender; numbers are given without wrap-around."""

    def __init__(self, *, isn=0, peer_isn=5000):
        self.isn, self.peer_isn, self.rows, self.now = isn, peer_isn, [], 1_000_000

    def add(self, *, back, after_ns=1000, flags=ACK, **fields):
        self.now += after_ns
        ends = (SENDER, 40000, RECEIVER, 7000)
        source, source_port, destination, destination_port = (*ends[2:], *ends[:2]) if back else ends
        self.rows.append(
            {
                "time_ns": self.now,
                "source": source,
                "source_port": source_port,
                "destination": destination,
                "destination_port": destination_port,
                "protocol": 6,
                "ethertype": 0x0800,
                "whole": True,
                "window": 500,
                "flags": flags,
                **fields,
            }
        )
        return self

    def send(self, start, payload, *, flags=ACK, **more):
        return self.add(back=False, sequence=(self.isn + start) % 2**32, payload=payload, flags=flags, **more)

    def hear(self, acknowledged, *, sacks=(), flags=ACK, **more):
        edges = np.zeros((4, 2), np.uint32)
        for k, block in enumerate(sacks):
            edges[k] = [(self.isn + edge) % 2**32 for edge in block]
        return self.add(
            back=True,
            acknowledgement=(self.isn + acknowledged) % 2**32,
            sequence=self.peer_isn,
            flags=flags,
            sack=edges,
            sack_count=len(sacks),
            **more,
        )

    def table(self):
        kinds = {
            "time_ns": np.int64,
            "length": np.uint32,
            "payload": np.int64,
            "source_mac": np.uint64,
            "destination_mac": np.uint64,
            "arp_sender_mac": np.uint64,
            "arp_target_mac": np.uint64,
            "source": np.uint32,
            "destination": np.uint32,
            "sequence": np.uint32,
            "acknowledgement": np.uint32,
            "sack": np.uint32,
            "timestamp": np.uint32,
            "timestamp_echo": np.uint32,
            "sack_permitted": np.bool_,
            "timestamps": np.bool_,
            "whole": np.bool_,
        }
        small = {"protocol", "flags", "options", "window_scale", "sack_count", "udp_payload"}
        columns = {}
        for field in fields(Packets):
            kind = kinds.get(field.name, np.uint8 if field.name in small else np.uint16)
            shape = NUMBERS.get(field.name, ())
            column = np.zeros((len(self.rows), *shape), kind)
            for k, row in enumerate(self.rows):
                if field.name in row:
                    column[k] = row[field.name]
            columns[field.name] = column
        return Packets(**columns)


@pytest.fixture
def trace():
    """Start a constructed trace: `trace(isn=2**32 - 10)`."""
    return Trace


@pytest.fixture
def frames_of():
    """Frames with the given bytes: `frames_of([b"..."], width=128)`."""

    def make(packets, *, width=128):
        data = np.zeros((len(packets), width), np.uint8)
        for k, packet in enumerate(packets):
            piece = packet[:width]
            data[k, : len(piece)] = np.frombuffer(piece, np.uint8)
        length = np.array([len(packet) for packet in packets], np.uint32)
        times = np.arange(len(packets), dtype=np.int64) * 1_000_003 + 1_700_000_000_000_000_000
        return Frames(time_ns=times, length=length, captured=np.minimum(length, width).astype(np.uint32), data=data)

    return make
