"""What the source of a post-copy owes, and what it makes of what the destination says in the end."""

from types import SimpleNamespace

import numpy as np
import pytest

from unnoticed.agents import wire
from unnoticed.agents.helper import Nursery
from unnoticed.agents.page_wire import FRAME_BYTES
from unnoticed.agents.postcopy_source import PageService
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, PAGE_BYTES, SMALLEST_BYTES, Ram
from unnoticed.errors import MigrationError, PeerError

HEAD = FIRST_DIRTIER_PAGE


def runs(*pairs):
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


class Sender:
    """Notes what is sent, and what is waited for."""

    def __init__(self):
        self.said = []
        self.channel = SimpleNamespace(expect=self.said.append)

    def send(self, message, *, more=False):
        self.said.append(message)

    def send_owed(self, runs):
        self.said.append(runs.tolist())


class Channel:
    """The migration's channel, when the guest has gone: `last` is what comes in the end."""

    def __init__(self, last, state=wire.State.RESUMED):
        self.last, self.socket = last, None
        self.wire = SimpleNamespace(state=state)

    def receive(self):
        if isinstance(self.last, Exception):
            raise self.last
        return self.last


@pytest.fixture
def ram():
    made = Ram.create(memory_bytes=SMALLEST_BYTES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def service(nursery, ram):
    made = PageService(nursery, ram)
    yield made
    made.close()


def test_the_head_is_never_owed(service, ram):
    sender = Sender()
    service.owe_early(runs((0, ram.pages)), sender, round_number=0)
    assert sender.said[1] == [[HEAD, ram.pages - HEAD]]
    assert service.owed_pages == ram.pages - HEAD


def test_pages_are_named_early_in_a_round_without_pages(service):
    sender = Sender()
    service.owe_early(runs((HEAD + 4, 2)), sender, round_number=5)
    assert sender.said == [wire.RoundStart(5), [[HEAD + 4, 2]], wire.RoundEnd(0), wire.RoundAck]


def test_the_last_pages_are_divided_into_the_head_and_what_is_not_owed_yet(service):
    service.owe_early(runs((HEAD + 4, 2)), Sender(), round_number=0)
    head, owed = service.divide(runs((3, 2), (HEAD - 1, 2), (HEAD + 3, 4)))
    assert head.tolist() == [[3, 2], [HEAD - 1, 1]]
    assert owed.tolist() == [[HEAD, 1], [HEAD + 3, 1], [HEAD + 6, 1]]
    assert service.owed_pages == 2 + 3
    assert service.divide(runs((HEAD, 7)))[1].tolist() == [[HEAD + 1, 1], [HEAD + 2, 1]]


def test_of_a_head_of_which_nothing_was_sent_zeros_are_left_out(service, ram):
    ram.words[[0, 1, 7, HEAD], 3] = 1
    assert service.head().tolist() == [[0, 2], [7, 1]]


def test_what_went_over_the_page_channels_is_counted_once_all_has_arrived(service, monkeypatch):
    def wait(self, main):
        self._bytes_pushed = 5000

    monkeypatch.setattr(PageService, "wait", wait)
    complete = wire.Complete(time_ns=77, pushed_pages=1, demanded_pages=3)
    assert service.bytes_sent == 0
    assert service.serve(Channel(complete)) == 77
    assert service.bytes_sent == 5000 + 3 * (FRAME_BYTES + PAGE_BYTES)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (wire.Lost("It is lost."), r"^It is lost\. At the source: A helper fell\.$"),
        (
            PeerError("Gone."),
            r"^Whether the guest has all its pages is not known: Gone\. At the source: A helper fell\.$",
        ),
    ],
)
def test_what_failed_here_is_added_to_what_the_destination_says(service, monkeypatch, last, reason):
    def wait(self, main):
        raise MigrationError("A helper fell.")

    monkeypatch.setattr(PageService, "wait", wait)
    with pytest.raises(PeerError, match=reason):
        service.serve(Channel(last))
    assert service.bytes_sent == 0


def test_pages_cannot_follow_a_guest_of_which_nobody_said_that_it_resumed(service):
    with pytest.raises(PeerError, match="The guest had gone before its pages did"):
        service.serve(Channel(None, state=wire.State.RELINQUISHED))
