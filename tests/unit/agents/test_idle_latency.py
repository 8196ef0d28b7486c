"""Processors are asked to stay awake, and let go of; where they cannot be asked nothing happens."""

from pathlib import Path

from unnoticed.agents.kernel import idle_latency
from unnoticed.agents.kernel.idle_latency import Awake


def descriptors():
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_no_latency_is_asked_for_until_the_end(tmp_path, monkeypatch):
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    monkeypatch.setattr(idle_latency, "_DEVICE", str(device))
    before, awake = descriptors(), Awake()
    awake.begin()
    awake.begin()
    assert len(descriptors() - before) == 1
    assert device.read_bytes() == bytes(4)
    awake.end()
    awake.end()
    assert descriptors() == before


def test_a_machine_that_cannot_be_asked_sleeps_on(tmp_path, monkeypatch):
    monkeypatch.setattr(idle_latency, "_DEVICE", str(tmp_path / "nothing"))
    awake = Awake()
    awake.begin()
    awake.end()
