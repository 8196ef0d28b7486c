"""One guest, migrated back and forth for a long time, under load: nobody is harmed, and nothing grows."""

import itertools
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

SETTLED = 20  # by then every code path has run, and every cache is filled
PRE_COPY = {"mode": "pre-copy", "policy": "fixed-rounds", "parameters": {"rounds": 3}}
EVERY_WAY = [
    PRE_COPY | {"gap": "hold"},
    PRE_COPY | {"gap": "drop"},
    {"mode": "stop-and-copy", "gap": "hold"},
    {"mode": "post-copy", "gap": "hold"},
    {"mode": "hybrid", "policy": "fixed-rounds", "parameters": {"rounds": 1}, "gap": "drop"},
]


def held(agent):
    """What an agent holds: file descriptors, and its own memory in bytes (not the guest's, which is shared)."""
    status = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    own = next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))
    return len(list(Path(f"/proc/{agent.pid}/fd").iterdir())), own


def migrate_many(stage, ways, *, verify_every):
    """Migrate in each of the ways in turn, between A and B."""
    client = stage.load(rate_hz=500, connections=10)
    before, resumes = {}, 1
    for number, way in enumerate(ways, 1):
        at, other = ("a", "b") if number % 2 else ("b", "a")
        report = stage.migrate(at, other, **way)
        assert (report["outcome"], report["reason"]) == ("completed", ""), f"migration {number}, {way}"
        assert report["connections"] >= 12
        assert stage.agents[other].wait_reply("arrival", 10)["arrival"] == "resumed"
        resumes += 1
        if number == SETTLED:
            before = {place: held(agent) for place, agent in stage.agents.items()}
        if number % verify_every == 0:
            assert stage.verify(other)["wrong_pages"] == 0
            resumes += 1
    after = {place: held(agent) for place, agent in stage.agents.items()}
    stage.check_guest(other, resumes=resumes)
    done = stage.check_unharmed(client)
    assert done["bytes_downloaded"] > 1 << 20
    assert done["bytes_uploaded"] > 1 << 20
    assert [event["outcome"] for event in stage.events("migration")] == ["completed"] * number
    assert not stage.events("trouble") + stage.events("connection-lost") + stage.events("refused")
    for place, (descriptors, own_bytes) in after.items():
        assert descriptors == before[place][0], place
        assert own_bytes < before[place][1] + (4 << 20), place


@pytest.mark.timeout(900)
def test_a_hundred_migrations_complete_and_harm_nobody(stage):
    stage.boot()
    migrate_many(stage, [{}] * 100, verify_every=25)


@pytest.mark.timeout(3600)
def test_a_thousand_migrations_in_every_mode_complete_and_harm_nobody(holding):
    holding.boot(memory_bytes=16 << 20, working_set_bytes=4 << 20)
    migrate_many(holding, itertools.islice(itertools.cycle(EVERY_WAY), 1000), verify_every=100)
