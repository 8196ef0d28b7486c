"""The bytes of the migration protocol, against a recording that another program made (see its head)."""

from pathlib import Path

import pytest

from unnoticed.agents.wire import Role

GOLDEN = Path(__file__).parents[2] / "golden" / "wire-v6.txt"


@pytest.fixture(scope="module")
def golden():
    lines = [line.split() for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return [(Role(who), bytes.fromhex(frame)) for who, frame in lines]


def test_each_message_is_sent_as_recorded(conversation, golden, step):
    sender, message = conversation.script[step]
    assert (sender, conversation.played(step)[sender].send(message)) == golden[step]


def test_each_recorded_frame_is_read_as_the_message_it_was(conversation, golden, step):
    sender, frame = golden[step]
    (came,) = conversation.deliver(frame, conversation.played(step)[sender.peer])
    assert conversation.plain(came) == conversation.plain(conversation.script[step][1])


def test_the_recording_is_a_whole_conversation(conversation, golden):
    assert len(golden) == len(conversation.script)
