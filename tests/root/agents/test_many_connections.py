"""Several hundred connections in one cutover: the agents, which expect them, use their compiled loops."""

import pytest

pytestmark = pytest.mark.root

CONNECTIONS = 400


@pytest.mark.parametrize("crowded", [CONNECTIONS], indirect=True)
def test_hundreds_of_connections_survive_two_migrations_with_every_byte_right(crowded):
    crowded.boot()
    client = crowded.load(connections=CONNECTIONS, rate_hz=1000)
    for source, destination in ("ab", "ba"):
        report = crowded.migrate(source, destination, policy="threshold", parameters={"threshold_bytes": 1 << 20})
        assert (report["outcome"], report["reason"]) == ("completed", "")
        assert report["connections"] >= CONNECTIONS + 2
        assert crowded.agents[destination].wait_reply("arrival", 20)["arrival"] == "resumed"
    crowded.check_guest("a", resumes=3)
    crowded.check_unharmed(client)
    assert not crowded.events("trouble") + crowded.events("connection-lost") + crowded.events("refused")


@pytest.mark.parametrize("crowded", [CONNECTIONS], indirect=True)
@pytest.mark.parametrize(("fail_here", "fail_there"), [("await-ready", None), (None, "restore")])
def test_a_cutover_that_fails_lets_hundreds_of_connections_go_on_where_they_were(crowded, fail_here, fail_there):
    crowded.boot()
    client = crowded.load(connections=CONNECTIONS, rate_hz=1000)
    settings = {"policy": "threshold", "parameters": {"threshold_bytes": 1 << 20}}
    report = crowded.migrate("a", "b", fail_at=fail_here, fail_there=fail_there, **settings)
    assert report["outcome"] == "failed"
    crowded.check_guest("a")
    crowded.check_unharmed(client)
