"""A migration network of its own: pages pass the clients by."""

from pathlib import Path

import pytest

from unnoticed.topology.fabric import Fabric, FabricSpec
from unnoticed.topology.runs import Run

pytestmark = pytest.mark.root

MEMORY_BYTES = 32 << 20
FEW_BYTES = 1 << 20  # of probes, load and announcements


@pytest.fixture(scope="module")
def fabric(tmp_path_factory):
    spec = FabricSpec(shape="single", clients=1, migration_network="dedicated")
    with (
        Run(registry=tmp_path_factory.mktemp("registry")) as run,
        Fabric(spec, run_id=run.id) as fabric,
    ):
        yield fabric


def sent_bytes(fabric, place):
    """By each interface of a place so far (proc_net_dev(5))."""
    lines = Path(f"/proc/{fabric.places[place].pid}/net/dev").read_text().splitlines()[2:]
    return {name.strip(): int(counts.split()[8]) for name, counts in (line.split(":") for line in lines)}


def test_on_a_network_of_its_own_no_page_crosses_a_link_of_the_clients(holding, fabric):
    holding.boot(memory_bytes=MEMORY_BYTES)
    client = holding.load(bulk=False, rate_hz=100)
    before = sent_bytes(fabric, "a")
    assert holding.migrate("a", "b")["outcome"] == "completed"
    grown = {name: count - before[name] for name, count in sent_bytes(fabric, "a").items()}
    assert grown["migration"] > MEMORY_BYTES
    assert grown["a-eth0"] < FEW_BYTES
    holding.check_guest("b")
    holding.check_unharmed(client)
