from __future__ import annotations

import json
import shutil

import pytest

from unnoticed import genetlink
from unnoticed.errors import MachineError, PlanError
from unnoticed.topology import addresses, open_vswitch, ovs_words
from unnoticed.topology.open_vswitch import check_open_vswitch
from unnoticed.topology.switch import BLOCKING, FORWARDING
from unnoticed.topology.switching import Switching

S = 1_000_000_000
MAC = "02:77:01:00:00:07"
PORTS = {"1": "s1-eth1", "2": "s1-eth2"}

# What Open vSwitch 3.1.0 (Debian 12) prints.
STP = """---- br0 ----
  Root ID:
\tstp-priority\t4096
\tstp-system-id\t02:77:01:00:00:01
\tstp-hello-time\t1s
\tstp-max-age\t6s
\tstp-fwd-delay\t4s
\troot-port\ts1-eth1
\troot-path-cost\t2

  Bridge ID:
\tstp-priority\t32768
\tstp-system-id\t02:77:01:00:00:07
\tstp-hello-time\t1s
\tstp-max-age\t6s
\tstp-fwd-delay\t4s

  Interface  Role       State      Cost  Pri.Nbr
  ---------- ---------- ---------- ----- -------
  s1-eth1    root       forwarding 2     128.1
  s1-eth2    alternate  blocking   2     128.2

"""
RSTP_PORTS = """  Interface  Role       State      Cost     Pri.Nbr
  ---------- ---------- ---------- -------- -------
  s1-eth1    Root       Forwarding 2000     128.1
  s1-eth2    Alternate  Discarding 2000     128.2
"""
FDB = """ port  VLAN  MAC                Age
    2     0  02:77:00:00:00:64    0
LOCAL     0  02:77:01:00:00:07  299
    1     0  02:77:00:00:00:01    3
"""


def listed(**columns):
    return json.dumps({"headings": list(columns), "data": [list(columns.values())]})


def read_back(asked):
    """A bridge's record as `ovs-vsctl --format=json list bridge` has it, where all became as asked."""
    plain = {name: value for name, value in asked.items() if ":" not in name}
    other = [[name.split(":", 1)[1], value.strip('"')] for name, value in asked.items() if ":" in name]
    columns = {name: {"true": True, "false": False}.get(value, value) for name, value in plain.items()}
    return columns | {"other_config": ["map", other]}


def differences(asked, **changed):
    [bridge] = ovs_words.records(listed(**{**read_back(asked), **changed}))
    interfaces = [{"name": name, "ofport": int(number), "error": []} for number, name in PORTS.items()]
    return ovs_words.differences(asked, PORTS, bridge=bridge, interfaces=interfaces)


def test_a_switch_is_made_in_one_transaction_with_ports_that_have_numbers():
    asked = ovs_words.settings(Switching(kind="ovs"), stp=False, priority=32768, mac=MAC)
    words = " ".join(ovs_words.make_arguments(asked, PORTS))
    assert words.startswith("-- add-br br0 -- set bridge br0 fail_mode=standalone other_config:hwaddr=")
    assert words.endswith("-- add-port br0 s1-eth2 -- set interface s1-eth2 ofport_request=2")
    assert "other_config:mac-aging-time=300 stp_enable=false rstp_enable=false" in words


def test_its_trees_have_the_timers_that_were_asked_for():
    tree = ovs_words.settings(Switching(kind="ovs"), stp=True, priority=4096, mac=MAC)
    assert tree["stp_enable"] == "true"
    assert (tree["other_config:stp-priority"], tree["other_config:stp-forward-delay"]) == ("4096", "4")
    rapid = ovs_words.settings(Switching(kind="ovs", stp="rapid"), stp=True, priority=4096, mac=MAC)
    assert (rapid["stp_enable"], rapid["rstp_enable"]) == ("false", "true")
    assert rapid["other_config:rstp-max-age"] == "6"


def test_what_the_database_says_is_compared_with_what_was_asked():
    asked = ovs_words.settings(Switching(kind="ovs"), stp=True, priority=4096, mac=MAC)
    assert differences(asked) == []
    assert differences(asked, stp_enable=False) == ["stp_enable is false instead of true"]
    assert differences(asked, fail_mode=["set", []]) == ["fail_mode is [] instead of standalone"]
    broken = [{"name": "s1-eth1", "ofport": -1, "error": "could not open network device s1-eth1"}]
    [bridge] = ovs_words.records(listed(**read_back(asked)))
    assert ovs_words.differences(asked, PORTS, bridge=bridge, interfaces=broken) == [
        "s1-eth1: could not open network device s1-eth1",
        "s1-eth2 is port None instead of 2",
    ]


def test_states_of_ports_are_read_from_both_trees():
    assert ovs_words.tree_states(STP) == {"s1-eth1": FORWARDING, "s1-eth2": BLOCKING}
    assert ovs_words.tree_states(RSTP_PORTS) == {"s1-eth1": FORWARDING, "s1-eth2": BLOCKING}
    assert ovs_words.forward_delay_s(STP) == 4
    assert ovs_words.forward_delay_s(RSTP_PORTS) is None


def test_the_port_of_an_address_is_found_in_the_table():
    assert ovs_words.learned_port(FDB, "02:77:00:00:00:64") == "2"
    assert ovs_words.learned_port(FDB, "02:77:00:00:00:65") is None


@pytest.mark.parametrize(
    ("asked", "flows"),
    [
        ({}, ["priority=0 actions=NORMAL"]),
        ({"learning": False}, ["priority=0 actions=FLOOD"]),
        ({"drop_announcements": "rarp"}, ["priority=1,rarp actions=drop", "priority=0 actions=NORMAL"]),
    ],
)
def test_what_it_does_with_frames_is_in_its_flows(asked, flows):
    made = ovs_words.flows(Switching(kind="ovs", **asked), guest=addresses.GUEST)
    assert made == flows
    printed = "".join(f" {flow}\n" for flow in reversed(flows))
    assert ovs_words.flow_differences(flows, f"NXST_FLOW reply (xid=0x4):\n{printed}") == []
    assert ovs_words.flow_differences(flows, "") != []


def test_what_it_would_change_without_a_word_is_refused():
    with pytest.raises(PlanError) as caught:
        Switching(kind="ovs", ageing_ns=5 * S, forward_delay_ns=2 * S, learning_limit=3)
    assert [problem.partition(": Open vSwitch")[0] for problem in caught.value.problems] == [
        "fabric.switch.forward_delay: 2 s is out of range",
        "fabric.switch.ageing: 5 s is out of range",
        "fabric.switch.max_age",
        "fabric.switch.learning_limit",
    ]
    assert caught.value.problems[0].endswith(": Open vSwitch takes 4 to 30 s.")
    with pytest.raises(PlanError, match=r"fabric\.switch\.ageing: Open vSwitch takes whole seconds"):
        Switching(kind="ovs", ageing_ns=15 * S + 1)


def test_a_rapid_tree_is_not_the_bridges():
    with pytest.raises(PlanError, match=r'has no rapid spanning tree; fabric\.switch\.kind = "ovs" has'):
        Switching(stp="rapid")


def test_a_machine_without_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "ovsdb-server" else f"/bin/{tool}")
    with pytest.raises(MachineError, match=r"there is no ovsdb-server .* openvswitch-switch, or leave"):
        check_open_vswitch()


def test_a_kernel_without_it_says_which_has_it(monkeypatch, tmp_path):
    def refuse(_name):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(shutil, "which", lambda tool: f"/bin/{tool}")
    monkeypatch.setattr(open_vswitch, "SCHEMA", tmp_path)
    monkeypatch.setattr(genetlink, "find_family", refuse)
    with pytest.raises(MachineError, match=r"this kernel has no datapath of Open vSwitch .* module openvswitch"):
        check_open_vswitch()
