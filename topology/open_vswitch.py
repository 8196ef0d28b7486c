"""Open vSwitch as a switch: two daemons of its own in its namespace, over the kernel's datapath.

Nothing of it is shared: each switch has its database, its sockets and its logs in a folder of its own, and its datapath
is that of its network namespace. So there is no service to be started before, and nothing to be told apart after.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unnoticed import genetlink
from unnoticed.errors import FabricError, MachineError
from unnoticed.patience import patient
from unnoticed.topology import ovs_words
from unnoticed.topology.namespaces import read_device
from unnoticed.topology.switch import BRIDGE, DISABLED, FORWARDING, FabricSwitch
from unnoticed.unixctl import Unixctl, UnixctlError

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_TOOLS = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl")
_ANSWER_S = patient(10.0)
_FOLDERS = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")  # ovs-vswitchd(8)
_OTHERWISE = 'or leave fabric.switch.kind at "bridge"'


def check_open_vswitch() -> None:
    """Raise MachineError unless there are Open vSwitch and the kernel's half of it."""
    missing = next((tool for tool in _TOOLS if shutil.which(tool) is None), None)
    if missing or not SCHEMA.exists():
        raise MachineError(
            f"fabric.switch.kind: there is no {missing or SCHEMA} on this machine: "
            f"apt-get install --no-install-recommends openvswitch-switch, {_OTHERWISE}."
        )
    try:
        genetlink.find_family("ovs_datapath")
    except OSError as error:
        raise MachineError(
            f"fabric.switch.kind: this kernel has no datapath of Open vSwitch ({error.strerror}): "
            f"run one that has the module openvswitch, as Debian's do, {_OTHERWISE}."
        ) from error


class OpenVSwitch(FabricSwitch):
    """A bridge of Open vSwitch."""

    kind = "ovs"

    def __init__(self, name: str, **params: Any) -> None:
        """See `FabricSwitch`."""
        super().__init__(name, **params)
        self._folder = Path()
        self._environment: dict[str, str] = {}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._asked: Unixctl | None = None

    def begin(self, marks: Mapping[str, str], folder: Path) -> None:
        """See `FabricSwitch.begin`."""
        self._folder = folder / self.name
        own = dict.fromkeys(_FOLDERS, str(self._folder))
        self._environment = {**os.environ, **marks, **own}

    @property
    def control(self) -> str | None:
        """See `FabricSwitch.control`."""
        return str(self._folder / "switch.ctl")

    @property
    def numbers(self) -> dict[str, str]:
        """See `FabricSwitch.numbers`."""
        return {str(number): port for number, port in enumerate(self.intfNames(), start=1)}

    def set_up(self) -> None:
        """See `FabricSwitch.set_up`."""
        check_open_vswitch()
        self._folder.mkdir(parents=True)
        asked = ovs_words.settings(self.switching, stp=self.stp, priority=self.priority, mac=self.bridge_mac)
        flows = ovs_words.flows(self.switching, guest=self.guest)
        database, control = self._folder / "conf.db", self._folder / "server.ctl"
        self._tool("ovsdb-tool", "create", str(database), str(SCHEMA))
        self._start("ovsdb-server", str(database), f"--remote=p{self._server}", f"--unixctl={control}")
        self._start("ovs-vswitchd", self._server, f"--unixctl={self.control}")
        for interface in self.intfNames():
            self._tool("ip", "link", "set", "dev", interface, "up")
        self._database("--retry", *ovs_words.make_arguments(asked, self.numbers))
        manager = f"unix:{self._folder}/{BRIDGE}.mgmt"
        self._tool("ovs-ofctl", "replace-flows", manager, "-", text="\n".join(flows) + "\n")
        [bridge] = ovs_words.records(self._database("--format=json", "list", "bridge", BRIDGE))
        interfaces = list(ovs_words.records(self._database("--format=json", "list", "interface")))
        wrong = ovs_words.differences(asked, self.numbers, bridge=bridge, interfaces=interfaces)
        wrong += ovs_words.flow_differences(flows, self._tool("ovs-ofctl", "--no-stats", "dump-flows", manager))
        if self.stp:
            delay_s, read_s = self.switching.tree_delay_ns // 1_000_000_000, ovs_words.forward_delay_s(self._tree())
            wrong += [] if read_s == delay_s else [f"its forward delay is {read_s} s instead of {delay_s} s"]
        if not self._ask("dpctl/show").startswith("system@"):
            wrong.append("its datapath is not the kernel's")
        if wrong:
            raise FabricError(f"The switch {self.name} is not what was asked for: {'; '.join(wrong)}.")

    def end(self) -> None:
        """See `FabricSwitch.end`."""
        if self._asked is not None:
            self._asked.close()
            self._asked = None
        for daemon in self._daemons:
            daemon.kill()
        for daemon in self._daemons:
            daemon.wait()
        self._daemons = []

    def port_states(self) -> dict[str, int]:
        """See `FabricSwitch.port_states`."""
        if self.stp:
            return dict.fromkeys(self.intfNames(), DISABLED) | ovs_words.tree_states(self._tree())
        up = {port: read_device(self.pid, port, "operstate") == "up" for port in self.intfNames()}
        return {port: FORWARDING if is_up else DISABLED for port, is_up in up.items()}

    def speaks_of_a_change(self) -> bool:
        """Never: with a change it forgets all addresses at once."""
        return False

    def forwarding_port(self, mac: str) -> str | None:
        """See `FabricSwitch.forwarding_port`."""
        number = ovs_words.learned_port(self._ask("fdb/show", BRIDGE), mac)
        return None if number is None else self.numbers.get(number, number)

    def forget_addresses(self) -> None:
        """See `FabricSwitch.forget_addresses`."""
        self._ask("fdb/flush", BRIDGE)

    @property
    def _server(self) -> str:
        return f"unix:{self._folder}/db.sock"

    def _tree(self) -> str:
        return self._ask("rstp/show" if self.switching.is_rapid else "stp/show", BRIDGE)

    def _start(self, *argv: str) -> None:
        """Start a daemon in the calling thread's namespace; it stays a child, so that it is ended by its pid."""
        with (self._folder / f"{argv[0]}.log").open("wb") as log:
            daemon = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, process_group=0
            )
        self._daemons.append(daemon)

    def _database(self, *arguments: str) -> str:
        limit_s = max(1, round(_ANSWER_S))
        return self._tool("ovs-vsctl", f"--db={self._server}", f"--timeout={limit_s}", *arguments)

    def _tool(self, *argv: str, text: str | None = None) -> str:
        try:
            done = subprocess.run(
                argv, input=text, capture_output=True, text=True, timeout=2 * _ANSWER_S, check=False,
                env=self._environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise FabricError(f"{argv[0]} of {self.name} did not answer within {2 * _ANSWER_S:g} s.") from error
        if done.returncode != 0:
            said = " ".join(done.stderr.split())
            raise FabricError(f"`{_short(argv)}` of {self.name} failed: {said or self._said()}")
        return done.stdout

    def _ask(self, command: str, *arguments: str) -> str:
        try:
            if self._asked is None:
                self._asked = Unixctl(str(self.control), timeout_s=_ANSWER_S)
            return self._asked.ask(command, *arguments)
        except UnixctlError as error:
            raise FabricError(f"{self.name}: {error} {self._said()}".rstrip()) from error

    def _said(self) -> str:
        """The last line of its daemons' logs."""
        logs = (log.read_text(errors="replace").strip() for log in sorted(self._folder.glob("*.log")))
        return " ".join(text.splitlines()[-1] for text in logs if text)


def _short(argv: Sequence[str]) -> str:
    words = " ".join(argv)
    return words if len(words) < 200 else f"{words[:200]} ..."
