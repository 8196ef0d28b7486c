from __future__ import annotations

import re

import pytest

from unnoticed.errors import PlanError
from unnoticed.topology.design import design
from unnoticed.topology.direction import LinkChange
from unnoticed.topology.fabric import check_design, describe_design
from unnoticed.topology.own_topo import load_topo
from unnoticed.topology.roles import Roles
from unnoticed.topology.spec import FabricSpec

LAB = """
from mininet.topo import Topo

class Line(Topo):
    def build(self):
        for number in (1, 2, 3):
            self.addLink(self.addHost(f"h{number}"), self.addSwitch(f"s{number}"))
        self.addLink("s1", "s2")
        self.addLink("s2", "s3")

class NeedsMore(Topo):
    def build(self, size):
        pass

class Raises(Topo):
    def build(self):
        self.addLink("h1", nothing)

class Leaves(Topo):
    def build(self):
        raise SystemExit(3)

class Talks(Topo):
    def build(self):
        raise ValueError("one line,\\nand another")

not_a_topo = dict
topos = {"line": lambda: Line(), "bad": 3}
"""


@pytest.fixture
def lab(tmp_path):
    path = tmp_path / "lab.py"
    path.write_text(LAB)
    return path


def spec(shape, **roles):
    return FabricSpec(shape=str(shape), clients=None, roles=Roles(**roles))


@pytest.mark.parametrize("name", ["Line", "line"])
def test_a_class_or_an_entry_of_topos_is_found_in_a_file(lab, name):
    assert load_topo(f"{lab}:{name}").hosts() == ["h1", "h2", "h3"]


def test_a_module_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "labs_of_a_user.py").write_text(LAB)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_topo("labs_of_a_user:Line").switches() == ["s1", "s2", "s3"]


def test_all_hosts_but_the_two_are_clients_and_a_control_server_is_added_beside_the_source(lab):
    asked = spec(f"{lab}:Line", source="h1", destination="h3")
    assert check_design(asked) == ("h2",)
    assert design(asked).wiring.neighbours("control") == ["s1"]


def test_fewer_clients_may_draw_load_than_there_are_but_not_more(lab):
    shape = f"{lab}:Line"
    roles = Roles(source="h1", destination="h3")
    with pytest.raises(PlanError, match="has 1 hosts that can be clients, fewer than 2"):
        design(FabricSpec(shape=shape, clients=2, roles=roles))
    assert check_design(FabricSpec(shape=shape, clients=1, roles=roles)) == ("h2",)


def test_a_missing_role_is_one_clear_sentence(lab):
    with pytest.raises(PlanError) as caught:
        design(spec(f"{lab}:Line", source="h1"))
    (problem,) = caught.value.problems
    assert problem.startswith(f'fabric.destination: the topology {lab}:Line has no host "b" to be the destination; ')
    assert problem.endswith('its hosts are h1, h2, h3: name one of them, as in fabric.destination = "..."')


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Missing", r'lab\.py has no "Missing"; it has the topologies Line, NeedsMore, Raises, Leaves, Talks, line\.'),
        ("bad", r"lab\.py:bad is a int, of which no topology can be made; .* the topologies Line, "),
        ("not_a_topo", r"is no topology: calling it gave a dict; name a class derived from mininet\.topo\.Topo\."),
        ("NeedsMore", r"NeedsMore failed: TypeError: .*'size'"),
        ("Raises", r"Raises failed: NameError: name 'nothing' is not defined \(line 17\)\."),
        ("Leaves", r"Leaves failed: SystemExit: 3 \(line 21\)\.$"),
        ("Talks", r"Talks failed: ValueError: one line, and another \(line 25\)\.$"),
    ],
)
def test_what_is_wrong_with_the_users_code_is_said_with_its_line(lab, name, said):
    with pytest.raises(PlanError, match=said):
        load_topo(f"{lab}:{name}")


def test_a_file_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(PlanError, match=r"importing \S+broken.py failed: ModuleNotFoundError: .*not_there' \(line 1\)"):
        load_topo(f"{tmp_path / 'broken.py'}:Lab")


@pytest.mark.parametrize("text", ["import sys\nsys.exit(4)\n", "topos = [3]\n"])
def test_a_file_that_ends_the_program_or_has_other_topos_is_told_too(tmp_path, text):
    (tmp_path / "odd.py").write_text(text)
    with pytest.raises(PlanError, match=r"failed: SystemExit: 4 \(line 2\)\.|it has no topology at all\."):
        load_topo(f"{tmp_path / 'odd.py'}:Lab")


BUILDS = {
    "options of links": (
        "self.addLink('h1', 's1', speedup=4)",
        "from h1 to s1 asks for speedup=4, which would",
    ),
    "values of links": (
        "self.addLink('h1', 's1', delay='5 km')",
        "from h1 to s1 asks for delay='5 km', which cannot",
    ),
    "rates without end": ("self.addLink('h1', 's1', bw=float('inf'))", "from h1 to s1 asks for bw=inf, which cannot"),
    "rates that are none": ("self.addLink('h1', 's1', bw=1e-9)", "rate must be 1 kbit/s to 34 Tbit/s, not 0 bit/s"),
    "delays without end": ("self.addLink('h1', 's1', delay='inf')", "from h1 to s1 asks for delay='inf', which cannot"),
    "delays of years": ("self.addLink('h1', 's1', delay='1e9s')", "The link h1-s1: A delay must be at most 10 s, not"),
    "lists": ("self.addLink('h1', 's1', bw=[10], delay='1ms')", "asks for bw=[10], delay='1ms', which cannot"),
    "numbers as names": (
        "self.addLink(self.addHost(4), 's1')",
        "a node is named by 4, a int; name it by a text",
    ),
    "parameters of links": (
        "self.addLink('h1', 's1', params1={'mtu': 9000})",
        "from h1 to s1 asks for mtu, which",
    ),
    "lists of parameters": ("self.addLink('h1', 's1', params1=[3])", "asks for [3], which would not take effect"),
    "long names": (
        "self.addLink('h1', 's1', intfName1='averylonginterfacename')",
        'the interface "averylonginterfacename" of h1 is not named by 15 letters',
    ),
    "names with spaces": (
        "self.addLink('h1', 's1', intfName2='a b')",
        'the interface "a b" of s1 is not named by 15 letters',
    ),
    "taken names": (
        "self.addLink('h1', 's1', intfName1='guest')",
        'the interface "guest" of h1 has a name that the fabric has given away there; change intfName1.',
    ),
    "names twice": (
        "self.addLink('h1', 's1', intfName2='x'); self.addLink(self.addHost('h4'), 's1', intfName2='x')",
        'the interface "x" of s1 is there twice; give each link a port or an intfName of its own there.',
    ),
    "ports twice": ("self.addLink('h1', 's1', port2=1)", 'the interface "s1-eth1" of s1 is there twice'),
    "ports twice by other names": (
        "self.addLink('h1', 's1', port2=1, intfName2='x')",
        "s1 has two links at port 1; give each a port of its own there.",
    ),
    "ports that are none": ("self.addLink('h1', 's1', port2='x')", "port2='x' of a link at s1 is no number of a port"),
    "high ports": ("self.addLink('h1', self.addSwitch('switch9chr'[:9]), port2=100)", "give the node a shorter name"),
    "links to itself": ("self.addLink('s1', 's1')", "s1 is linked to itself; a link joins two nodes."),
    "priorities": (
        "self.addSwitch('s2', prio=70000, stp=True)",
        "the switch s2 asks for prio=70000; a priority in the spanning tree is a whole number from 0 to 65535",
    ),
    "priorities in words": ("self.addSwitch('s2', prio='x')", "the switch s2 asks for prio='x'; a priority in"),
    "two links": (
        "self.addLink('h3', 's1')",
        "the host h3 has 2 links; a host of a fabric has one, and a",
    ),
    "hosts outside": ("self.addHost('h4', inNamespace=False)", "the host h4 asks for inNamespace=False"),
    "no link": ("self.addHost('h4')", "the host h4 has no link; a host of a fabric has one: link it, or leave it out."),
    "classes": ("self.addHost('h4', cls=int)", "the host h4 is a int, which a fabric cannot make; leave its cls out"),
    "names": ("self.addSwitch('a switch')", '"a switch" cannot be the name of a node'),
}


@pytest.mark.parametrize("what", BUILDS)
def test_what_would_be_ignored_is_refused(tmp_path, what):
    line, said = BUILDS[what]
    text = f"""
from mininet.topo import Topo

class Lab(Topo):
    def build(self):
        self.addSwitch("s1")
        for name in ("h1", "h2", "h3"):
            self.addHost(name)
        self.addLink("h2", "s1")
        self.addLink("h3", "s1")
        {line}
"""
    path = tmp_path / "lab.py"
    path.write_text(text)
    with pytest.raises(PlanError, match=re.escape(said)):
        design(spec(f"{path}:Lab", source="h1", destination="h2"))


def test_the_control_server_gets_a_port_that_the_topology_has_not_given_away(tmp_path):
    path = tmp_path / "lab.py"
    path.write_text(
        "from mininet.topo import Topo\n\nclass Lab(Topo):\n    def build(self):\n"
        "        self.addSwitch('s1')\n"
        "        for number in (4, 5, 3):\n"
        "            self.addLink(self.addHost(f'h{number}'), 's1', port2=number)\n"
    )
    topo = design(spec(f"{path}:Lab", source="h4", destination="h5")).topo
    assert topo.linkInfo("control", "s1")["port2"] == 6


def test_a_topology_may_ask_for_a_spanning_tree_as_mininet_spells_it(tmp_path):
    path = tmp_path / "lab.py"
    path.write_text(
        LAB + "\nclass Treed(Line):\n    def build(self):\n        super().build()\n"
        "        self.g.node['s1'].update(stp=True, prio=8192, failMode='standalone')\n"
    )
    assert design(spec(f"{path}:Treed", source="h1", destination="h3")).stp


ROUTED = """
from mininet.node import Node
from mininet.topo import Topo

class LinuxRouter(Node):
    def config(self, **params):
        super().config(**params)
        self.cmd("sysctl net.ipv4.ip_forward=1")

class Routed(Topo):
    def build(self):
        s1, s2 = self.addSwitch("s1"), self.addSwitch("s2")
        self.addNode("r0", cls=LinuxRouter, ip="192.168.1.1/24")
        self.addLink(s1, "r0", intfName2="r0-eth1", params2={"ip": "192.168.1.1/24"})
        self.addLink(s2, "r0", intfName2="r0-eth2", params2={"ip": "172.16.0.1/12"})
        for name, switch in (("h1", s1), ("h2", s1), ("h3", s2)):
            host = self.addHost(name, ip="192.168.1.100/24", defaultRoute="via 192.168.1.1")
            self.addLink(host, switch, bw=10, delay="5ms")
"""


def test_the_router_of_mininets_examples_is_one_and_what_it_asks_of_links_is_taken(tmp_path):
    path = tmp_path / "lab.py"
    path.write_text(ROUTED)
    made = design(spec(f"{path}:Routed", source="h1", destination="h2"))
    assert made.wiring.routers == ("r0",)
    assert made.segments.of == {"h1": 0, "h2": 0, "control": 0, "s1": 0, "h3": 1, "s2": 1}
    asked = {change.link: change for change in made.changes}
    assert asked.keys() == {"h1-s1", "h2-s1", "h3-s2"}
    assert (asked["h1-s1"].rate_bit_per_s, asked["h1-s1"].delay_ns) == (10_000_000, 5_000_000)
    assert asked["h1-s1"].queue_ns == 56_000_000  # the plan's 10 ms would not hold one frame as the kernel sends it
    with pytest.raises(PlanError, match="between h1 and h3 there is a router"):
        design(spec(f"{path}:Routed", source="h1", destination="h3"))


LINKED = """
from mininet.topo import Topo

class Linked(Topo):
    def build(self):
        for switch in ("s1", "s2"):
            self.addSwitch(switch)
        self.addLink("s1", "s2", bw=10, delay="20ms")
        self.addLink("s1", "s2", bw=100)
        self.addLink("s2", "s1", loss=1)
        for host, options in (("h1", {}), ("h2", {"bw": 50}), ("hosts", {"bw": 20}), ("clients", {"bw": 30})):
            self.addLink(self.addHost(host), "s1", **options)
"""


@pytest.fixture
def linked(tmp_path):
    """Rate (Mbit/s), delay (ms) and loss (ppm) of each link, both ways, with changes of the plan."""
    path = tmp_path / "lab.py"
    path.write_text(LINKED)

    def links(*changes):
        asked = FabricSpec(
            shape=f"{path}:Linked", clients=None, roles=Roles(source="h1", destination="h2"), links=changes
        )
        described = describe_design(asked)["links"]
        assert all(link["there"] == link["back"] for link in described)
        return [
            (
                "-".join(link["ends"]),
                link["there"]["rate_bit_per_s"] // 10**6,
                link["there"]["delay_ns"] // 10**6,
                link["there"]["loss_ppm"],
            )
            for link in described
        ]

    return links


def test_each_of_several_links_between_two_nodes_gets_what_it_asks_for(linked):
    assert [link for link in linked() if set(link[0].split("-")) == {"s1", "s2"}] == [
        ("s1-s2", 10, 20, 0),
        ("s1-s2", 100, 0, 0),
        ("s2-s1", 1000, 0, 10_000),
    ]


def test_a_link_of_a_node_that_is_called_as_a_kind_gives_nothing_to_others(linked):
    rates = {link: rate for link, rate, _, _ in linked() if "h" in link or "c" in link}
    assert rates == {"h1-s1": 1000, "h2-s1": 50, "hosts-s1": 20, "clients-s1": 30, "control-s1": 1000}


def test_the_plan_is_laid_over_all_links_between_two_nodes_and_a_nodes_name_comes_before_a_kinds(linked):
    found = linked(
        LinkChange(link="s1-s2", rate_bit_per_s=5 * 10**6, queue_ns=10**9), LinkChange(link="hosts-s1", delay_ns=10**6)
    )
    assert {link for link in found if set(link[0].split("-")) == {"s1", "s2"}} == {
        ("s1-s2", 5, 20, 0),
        ("s1-s2", 5, 0, 0),
        ("s2-s1", 5, 0, 10_000),
    }
    assert {name: delay for name, _, delay, _ in found if delay == 1} == {"hosts-s1": 1}


def test_what_it_prints_goes_where_messages_go(tmp_path, capsys):
    path = tmp_path / "talkative.py"
    path.write_text(
        "from mininet.topo import Topo\nprint('loaded')\n"
        "class Lab(Topo):\n    def build(self):\n        print('built')\n        self.addHost('h1')\n"
    )
    assert load_topo(f"{path}:Lab").hosts() == ["h1"]
    assert capsys.readouterr() == ("", "loaded\nbuilt\n")


def test_one_that_exits_is_refused(tmp_path):
    path = tmp_path / "leaving.py"
    path.write_text("import sys\nsys.exit(4)\n")
    with pytest.raises(PlanError, match=r"importing .*leaving\.py failed: SystemExit: 4 \(line 2\)\."):
        load_topo(f"{path}:Lab")
