from __future__ import annotations

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology.switching import Switching, differences


def test_times_are_given_to_the_kernel_in_hundredths_of_a_second():
    options = Switching(ageing_ns=15_000_000_000).options(stp=True, priority=4096)
    assert options == {
        "stp_state": 1,
        "forward_delay": 200,
        "hello_time": 100,
        "max_age": 600,
        "priority": 4096,
        "ageing_time": 1500,
        "mcast_snooping": 0,
    }


def test_without_a_tree_a_port_forwards_at_once():
    options = Switching().options(stp=False, priority=4096)
    assert (options["stp_state"], options["forward_delay"]) == (0, 0)
    assert "priority" not in options


def test_times_that_the_kernel_would_refuse_are_refused_with_its_limits():
    with pytest.raises(PlanError) as caught:
        Switching(forward_delay_ns=1_000_000_000, max_age_ns=41_000_000_000)
    assert caught.value.problems == (
        "fabric.switch.forward_delay: 1 s is out of range: the Linux bridge takes 2 to 30 s.",
        "fabric.switch.max_age: 41 s is out of range: the Linux bridge takes 6 to 40 s.",
    )


def test_what_the_kernel_made_of_it_is_compared_and_a_packet_filter_in_the_way_is_told():
    asked = {"stp_state": 1, "forward_delay": 200}
    assert differences(asked, {"stp_state": 1, "forward_delay": 200, "nf_call_iptables": 0}) == []
    assert differences(asked, {"stp_state": 0, "forward_delay": 200, "nf_call_arptables": 1}) == [
        "stp_state is 0 instead of 1",
        "nf_call_arptables is 1",
    ]
