import re
from dataclasses import replace

import pytest

from unnoticed.errors import MachineError
from unnoticed.experiments.commands.doctor import text
from unnoticed.experiments.doctor.capabilities import CAPABILITIES, PRIVILEGE, Found, find, shell
from unnoticed.experiments.doctor.throwaway import TrialError


@pytest.mark.parametrize("detail", ["Operation not permitted", '"ip link": RTNETLINK answers: Operation not permitted'])
def test_what_was_refused_needs_privilege_and_no_other_kernel(detail):
    capability = next(entry for entry in CAPABILITIES if entry.name == "HTB")
    assert Found(capability=capability, works=False, detail=detail).remedy == PRIVILEGE
    assert Found(capability=capability, works=False, detail="kind is unknown").remedy == capability.remedy


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'Error: Could not process rule: No.' >&2; echo 'add table' >&2; echo '^^^^' >&2; exit 1",
            "process rule: No",
        ),
        ("echo one >&2; echo two >&2; exit 1", "two"),
        ("exit 3", "status 3"),
    ],
)
def test_a_command_that_fails_is_quoted_by_the_line_that_says_why(script, said):
    with pytest.raises(TrialError, match=f"{said}$"):
        shell("sh", "-c", script)


def test_a_command_that_is_not_there_is_named():
    with pytest.raises(TrialError, match="no-such-command is not installed"):
        shell("no-such-command")


def test_every_capability_says_what_it_is_for_how_it_is_tried_and_what_to_do():
    assert len({entry.name for entry in CAPABILITIES}) == len(CAPABILITIES)
    for entry in CAPABILITIES:
        assert entry.purpose, entry.name
        assert entry.probed, entry.name
        assert entry.remedy, entry.name
        assert entry.required == (entry.cost == "nothing can be run"), entry.name


def test_what_a_command_said_ends_without_a_full_stop_and_so_can_stand_in_a_sentence():
    def attempt():
        raise MachineError("/proc cannot be read (No such file).")

    capability = replace(next(entry for entry in CAPABILITIES if entry.name == "memfd"), attempt=attempt)
    assert find(capability).detail == "/proc cannot be read (No such file)"


def test_what_nothing_uses_yet_is_listed_apart_and_without_a_remedy():
    found = [Found(capability=capability, works=False, detail="no") for capability in CAPABILITIES]
    said, _, unused = text(found, None).partition("Not used yet:\n")
    assert "KVM" not in said
    assert re.findall(r"^  NO   (.*?)  +for ", unused, flags=re.MULTILINE) == ["KVM"]
    assert "to have it" not in unused


def test_an_attempt_that_needs_no_privilege_works_for_anybody():
    memfd = next(entry for entry in CAPABILITIES if entry.name == "memfd")
    assert find(memfd).works
