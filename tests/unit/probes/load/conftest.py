"""A guest of the tests' own, written from unnoticed/workload.py alone, and child processes of the load."""

from __future__ import annotations

import json
import os
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import unnoticed
from unnoticed.workload import ANSWER, HELLO, MAGIC, RECEIPT, REQUEST, Kind, mix, pattern, wrong_bytes

PIECE = 1 << 16
SO_MAX_PACING_RATE, TCP_NOTSENT_LOWAT = 47, 25


@dataclass
class Served:
    """What the guest remembers of a connection."""

    stream: socket.socket
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    kind: int = 0
    connection: int = 0
    answered: int = 0
    previous: int = 0
    position: int = 0
    wrong: int = 0
    ended: bool = False


class Guest(threading.Thread):
    """Serves the four workloads on one loopback port and the UDP echo on another, with faults on demand.

    corrupt_download_at: flip this byte of every download. reset_after: reset a request connection instead of giving
    it this answer. silent: connection attempts get no answer.
    """

    def __init__(self, *, corrupt_download_at=None, reset_after=None, silent=False):
        super().__init__(daemon=True)
        self.corrupt_download_at = corrupt_download_at
        self.reset_after = reset_after
        self.silent = silent
        self.freeze_s = 0.0
        self.frozen_from_ns = self.frozen_until_ns = 0
        self.stopped = False
        self.uploads = {}
        self.rates = {}  # as the Hello of each connection asks
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        self.echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.echo.bind(("127.0.0.1", 0))
        self.echo.setblocking(False)
        self.echo_port = self.echo.getsockname()[1]
        self.selector.register(self.echo, selectors.EVENT_READ, None)

    def run(self):
        while not self.stopped:
            if self.freeze_s:
                self.frozen_from_ns = time.monotonic_ns()
                time.sleep(self.freeze_s)
                self.freeze_s, self.frozen_until_ns = 0.0, time.monotonic_ns()
            for key, events in self.selector.select(0.02):
                if key.fileobj is self.listener:
                    stream, _ = self.listener.accept()
                    stream.setblocking(False)
                    self.selector.register(stream, selectors.EVENT_READ, Served(stream))
                elif key.fileobj is self.echo:
                    data, sender = self.echo.recvfrom(2048)
                    self.echo.sendto(data, sender)
                else:
                    self.serve(key.data, events)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()

    def close(self, served):
        self.selector.unregister(served.stream)
        served.stream.close()

    def serve(self, served, events):
        try:
            if events & selectors.EVENT_READ:
                data = served.stream.recv(PIECE)
                served.ended |= not data
                served.inbox += data
                self.understand(served)
            if served.stream.fileno() < 0:
                return
            if served.kind == Kind.DOWNLOAD and not served.ended and len(served.outbox) < PIECE:
                piece = bytearray(pattern(served.connection, served.position, PIECE))
                if self.corrupt_download_at is not None and 0 <= self.corrupt_download_at - served.position < PIECE:
                    piece[self.corrupt_download_at - served.position] ^= 0x40
                served.position += PIECE
                served.outbox += piece
            if served.outbox:
                del served.outbox[: served.stream.send(served.outbox)]
        except BlockingIOError:
            pass
        except ConnectionError:
            self.close(served)
            return
        if served.ended and not served.outbox:
            self.close(served)
            return
        sending = served.outbox or (served.kind == Kind.DOWNLOAD and not served.ended)
        reading = 0 if served.ended else selectors.EVENT_READ
        self.selector.modify(served.stream, reading | (selectors.EVENT_WRITE if sending else 0), served)

    def understand(self, served):
        if not served.kind and len(served.inbox) >= HELLO.size:
            magic, served.kind, served.connection, rate = HELLO.unpack_from(served.inbox)
            assert magic == MAGIC
            self.rates[served.connection] = rate
            if rate:
                served.stream.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
                served.stream.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, PIECE)
            del served.inbox[: HELLO.size]
            if served.kind == Kind.CONNECT and not self.silent:
                served.outbox += ANSWER.pack(0, 0, 0, mix(served.connection, 0))
        if served.kind == Kind.REQUEST:
            while len(served.inbox) >= REQUEST.size:
                sequence, value = REQUEST.unpack_from(served.inbox)
                del served.inbox[: REQUEST.size]
                assert value == mix(served.connection, sequence)
                served.answered += 1
                if served.answered == self.reset_after:
                    served.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close(served)
                    return
                served.outbox += ANSWER.pack(sequence, served.answered, served.previous, value)
                served.previous = value
        elif served.kind == Kind.UPLOAD:
            served.wrong += wrong_bytes(served.connection, served.position, served.inbox)
            served.position += len(served.inbox)
            served.inbox.clear()
            if served.ended:
                self.uploads[served.connection] = served.position
                served.outbox += RECEIPT.pack(served.position, served.wrong)


class Child:
    """A child process of the load and the parent's end of its control channel."""

    def __init__(self, module, settings):
        source = str(Path(unnoticed.__file__).parent.parent)
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"unnoticed.probes.{module}", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": source},
        )
        self.ready = self.reply()

    def command(self, command):
        self.process.stdin.write((json.dumps({"command": command}) + "\n").encode())
        self.process.stdin.flush()

    def reply(self):
        readable, _, _ = select.select([self.process.stdout], [], [], 20)
        assert readable, "the child does not answer"
        line = self.process.stdout.readline()
        assert line, "the child has ended"
        return json.loads(line)

    def run(self, duration_s):
        """Start, let it run, stop; the reply to it."""
        self.command("start")
        time.sleep(duration_s)
        return self.stop()

    def stop(self):
        self.command("stop")
        done = self.reply()
        assert self.process.wait(10) == 0
        return done

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def guest():
    """Makes guests with the faults asked for; all are stopped at the end."""
    guests = []

    def make(**faults):
        guests.append(Guest(**faults))
        guests[-1].start()
        return guests[-1]

    yield make
    for each in guests:
        each.stopped = True
        each.join(5)


@pytest.fixture
def child():
    """Starts child processes of unnoticed.probes by module name and settings; all are ended at the end."""
    children = []

    def start(module, settings):
        children.append(Child(module, settings))
        return children[-1]

    yield start
    for each in children:
        each.close()


@pytest.fixture
def client(child, tmp_path):
    """Starts a load client against a guest of the tests; its files are in tmp_path."""

    def start(guest, **settings):
        base = {
            "client": "c1",
            "guest": "127.0.0.1",
            "port": guest.port,
            "events": str(tmp_path / "events.jsonl"),
            "records": str(tmp_path),
            "connection_base": 1 << 32,
        }
        return child("client", {**base, **settings})

    return start
