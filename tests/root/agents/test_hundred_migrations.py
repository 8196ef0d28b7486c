"""A hundred migrations of one guest, back and forth, under load: nobody is harmed, and nothing grows."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

MIGRATIONS = 100
SETTLED = 20  # by then every code path has run, and every cache is filled


def held(agent):
    """What an agent holds: file descriptors, and its own memory in bytes (not the guest's, which is shared)."""
    status = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    own = next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))
    return len(list(Path(f"/proc/{agent.pid}/fd").iterdir())), own


def test_a_hundred_migrations_complete_and_harm_nobody(stage):
    stage.boot()
    client = stage.load(rate_hz=500, connections=10)
    at, other = "a", "b"
    before = {}
    for number in range(1, MIGRATIONS + 1):
        report = stage.migrate(at, other)
        assert (report["outcome"], report["reason"]) == ("completed", ""), f"migration {number}"
        assert report["connections"] >= 12
        assert stage.agents[other].wait_reply("arrival", 10)["arrival"] == "resumed"
        at, other = other, at
        if number == SETTLED:
            before = {place: held(agent) for place, agent in stage.agents.items()}
        if number % 25 == 0:
            assert stage.verify(at)["wrong_pages"] == 0
    after = {place: held(agent) for place, agent in stage.agents.items()}
    stage.check_guest(at, resumes=1 + MIGRATIONS + MIGRATIONS // 25)
    done = stage.check_unharmed(client)
    assert done["bytes_downloaded"] > 1 << 20
    assert done["bytes_uploaded"] > 1 << 20
    assert [event["outcome"] for event in stage.events("migration")] == ["completed"] * MIGRATIONS
    assert not stage.events("trouble") + stage.events("connection-lost") + stage.events("refused")
    for place, (descriptors, own_bytes) in after.items():
        assert descriptors == before[place][0], place
        assert own_bytes < before[place][1] + (4 << 20), place
