#!/usr/bin/env python3
"""What coding gains: the same rounds by two codecs, on the same path in the same run, in turn.

    .venv/bin/python benchmarks/codecs.py [--rates 1,10,0] [--codec auto] [--against none] [--repeats 5] [--mib 512]

A RAM whose pages compress not at all, by half, or are zero in the main, goes from host a to host b of the `single`
fabric: all pages, and then every fourth one twice more, of each of which a word has changed. Time is that of all three
rounds, up to the destination's last acknowledgement, over that of the other codec. A rate of 0 is a link that nothing
shapes.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from unnoticed.agents import dirtier, wire
from unnoticed.agents.channel import Channel
from unnoticed.agents.kernel.tcp_repair import unacknowledged_bytes
from unnoticed.agents.packing import CODEC_NAMES, Packer, Unpacker
from unnoticed.agents.page_runs import runs_of_numbers
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, Ram

PORT = 7300
KEY = bytes(32)
CONTENTS = {
    "noise": dirtier.Contents(),
    "half": dirtier.Contents(compressible_ppm=500_000),
    "free": dirtier.Contents(zero_ppm=600_000, compressible_ppm=500_000),
}


def change(ram: Ram, number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Write a word to each page of a round; returns their numbers."""
    numbers = np.arange(0 if number == 0 else FIRST_DIRTIER_PAGE, ram.pages, 1 if number == 0 else 4)
    ram.words[numbers, number] += np.uint64(number)
    return numbers


def send(address: str, codec: str, contents: str, memory_bytes: int) -> None:
    """The sender's process: three rounds, timed."""
    ram = Ram.create(memory_bytes=memory_bytes)
    dirtier.fill(ram.words, CONTENTS[contents])
    channel = Channel(socket.create_connection((address, PORT)), role=wire.Role.SOURCE, key=KEY)
    channel.send(wire.Hello(nonce=channel.wire.nonce, memory_bytes=memory_bytes))
    channel.expect(wire.Welcome)
    channel.send(wire.Proof())
    channel.expect(wire.Prepared)
    packer = Packer(codec, ram)
    sent, wall_s, cpu = 0, 0.0, time.process_time()
    for number in range(3):
        runs = runs_of_numbers(change(ram, number))
        start = time.monotonic()
        sent += channel.send(wire.RoundStart(number), more=True)
        packer.begin()
        for message in wire.split(runs, most_pages=packer.piece_pages):
            packer.note(
                sent_bytes=sent, waiting_bytes=unacknowledged_bytes(channel.socket), time_ns=time.monotonic_ns()
            )
            for packed in packer.pack(message.runs):
                sent += channel.send_packed(packed, ram)
        sent += channel.send(wire.RoundEnd(int(runs[:, 1].sum())))
        channel.expect(wire.RoundAck)
        wall_s += time.monotonic() - start
    cpu = time.process_time() - cpu
    packer.close()
    print(json.dumps({"bytes": sent, "wall_s": wall_s, "cpu_s": cpu, "encodings": packer.take_counts()}))


def receive(address: str, contents: str, memory_bytes: int) -> None:
    """The receiver's process: three rounds, checked."""
    ram = Ram.create(memory_bytes=memory_bytes)
    unpacker = Unpacker(ram)
    listener = socket.create_server((address, PORT))
    print("listening", flush=True)
    channel = Channel(listener.accept()[0], role=wire.Role.DESTINATION, key=KEY)
    channel.expect(wire.Hello)
    channel.send(wire.Welcome(nonce=channel.wire.nonce))
    channel.expect(wire.Proof)
    channel.send(wire.Prepared())
    cpu = time.process_time()
    for _ in range(3):
        channel.expect(wire.RoundStart)
        while not isinstance(message := channel.receive(), wire.RoundEnd):
            if isinstance(message, wire.Coded):
                unpacker.take(message, channel.receive_coded(message))
            else:
                assert isinstance(message, wire.Pages)
                channel.receive_pages(message, ram)
        unpacker.settle()
        channel.send(wire.RoundAck(message.pages))
    cpu = time.process_time() - cpu
    unpacker.close()
    expected = Ram.create(memory_bytes=memory_bytes)
    dirtier.fill(expected.words, CONTENTS[contents])
    for number in range(3):
        change(expected, number)
    assert np.array_equal(ram.words, expected.words), "pages differ"
    print(json.dumps({"cpu_s": cpu}))


def transfer(fabric: Any, codec: str, contents: str, memory_bytes: int) -> dict[str, Any]:
    """One transfer by one codec."""
    address, me = fabric.places["b"].ipv4, [sys.executable, __file__]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    receiver = fabric.popen("b", [*me, "_receive", address, contents, str(memory_bytes)], **pipe)
    assert receiver.stdout.readline() == "listening\n"
    sender = fabric.popen("a", [*me, "_send", address, codec, contents, str(memory_bytes)], **pipe)
    sent, received = sender.communicate()[0], receiver.communicate()[0]
    result: dict[str, Any] = json.loads(sent)
    result["cpu_s"] += json.loads(received)["cpu_s"]
    return result


def main() -> None:
    """Print a row per rate and contents: the ratios, pair by pair."""
    if len(sys.argv) > 1 and sys.argv[1] == "_send":
        return send(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    if len(sys.argv) > 1 and sys.argv[1] == "_receive":
        return receive(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default="1,10,0", help="Gbit/s, separated by commas; 0 for no shaping")
    parser.add_argument("--codec", choices=CODEC_NAMES, default="auto")
    parser.add_argument("--against", choices=CODEC_NAMES, default="none")
    parser.add_argument("--contents", default=",".join(CONTENTS), help="of the pages, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mib", type=int, default=512)
    arguments = parser.parse_args()
    from unnoticed.topology.fabric import Fabric, FabricSpec
    from unnoticed.topology.runs import new_id

    print(f"{arguments.codec} over {arguments.against}, medians of {arguments.repeats} pairs (and their range)")
    print(f"{'rate':>10} {'contents':>9} {'time':>24} {'bytes':>8} {'CPU':>8}  {'encodings of the last'}")
    for rate in arguments.rates.split(","):
        rate_bit_per_s = int(float(rate) * 10**9) or None
        with Fabric(FabricSpec(shape="single", rate_bit_per_s=rate_bit_per_s), run_id=new_id()) as fabric:
            for contents in arguments.contents.split(","):
                pairs = []
                for number in range(arguments.repeats):
                    order = (arguments.codec, arguments.against)
                    done = {
                        codec: transfer(fabric, codec, contents, arguments.mib << 20)
                        for codec in (order if number % 2 else reversed(order))
                    }
                    pairs.append((done[arguments.codec], done[arguments.against]))
                print(row(rate, contents, pairs), flush=True)
    return None


def row(rate: str, contents: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Medians of the ratios, of the time with their range."""
    ratios = {key: [mine[key] / theirs[key] for mine, theirs in pairs] for key in ("wall_s", "bytes", "cpu_s")}
    times = ratios["wall_s"]
    encodings = ", ".join(f"{name} {pages}" for name, (pages, _) in pairs[-1][0]["encodings"].items())
    return (
        f"{rate + ' Gbit/s' if float(rate) else 'unshaped':>10} {contents:>9} "
        f"{f'{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})':>24} "
        f"{statistics.median(ratios['bytes']):>8.3f} {statistics.median(ratios['cpu_s']):>8.2f}  {encodings}"
    )


if __name__ == "__main__":
    main()
