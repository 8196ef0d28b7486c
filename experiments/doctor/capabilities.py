"""What the work needs of a machine, each with a way to find out by trying: versions and configurations are not read.

Every attempt runs in a child process of its own, in a network namespace of its own where it needs one.
"""

from __future__ import annotations

import functools
import mmap
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

from unnoticed import genetlink, own_root
from unnoticed.errors import MachineError
from unnoticed.experiments.doctor import kernel_attempts as kernel
from unnoticed.experiments.doctor.throwaway import TrialError, in_child
from unnoticed.patience import patient
from unnoticed.probes.tools import TOOLS

_TIMEOUT_S = patient(10.0)
_PORT_S = patient(2.0)
PRIVILEGE = "run it as root, and in a container with --privileged"


@dataclass(frozen=True, kw_only=True)
class Capability:
    """One thing that a machine may be able to do.

    `attempt` returns a few words on what was seen, or raises; `probed` says what it does. `purpose`: what needs it;
    `cost`: what is lost without it; `remedy`: what to do about that.
    """

    name: str
    purpose: str
    probed: str
    attempt: Callable[[], str]
    required: bool = True
    is_used: bool = True  # false: it is looked for, and nothing needs it so far
    cost: str = "nothing can be run"
    remedy: str = ""
    network: bool = True


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of the attempt. `detail`: what was seen, or why it failed."""

    capability: Capability
    works: bool
    detail: str

    @property
    def remedy(self) -> str:
        """What to do about it. What was refused needs privilege, whatever else would be needed after that."""
        refused = any(word in self.detail for word in ("not permitted", "Permission denied"))
        return PRIVILEGE if refused else self.capability.remedy


def find(capability: Capability) -> Found:
    """Try one capability."""
    try:
        detail = in_child(capability.attempt, timeout_s=_TIMEOUT_S, network=capability.network)
    except (TrialError, MachineError) as error:
        return Found(capability=capability, works=False, detail=str(error).removesuffix("."))
    return Found(capability=capability, works=True, detail=str(detail))


def shell(*command: str) -> str:
    """Run one command and give its output. Raises TrialError with its stderr."""
    if shutil.which(command[0]) is None:
        raise TrialError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S / 2, check=False)
    except subprocess.TimeoutExpired:
        raise TrialError(f'"{" ".join(command)}" did not end within {_TIMEOUT_S / 2:g} s') from None
    if done.returncode != 0:
        raise TrialError(f'"{" ".join(command)}": {_said(done)}')
    return done.stdout


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says what was wrong: nft points at the place below it."""
    lines = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
    return next((line for line in lines if line.startswith("Error: ")), lines[-1]).removesuffix(".")


def _root() -> str:
    if os.geteuid() != 0:
        raise TrialError(f"running as user {os.geteuid()}")
    return "uid 0"


def _namespace() -> str:
    shell("ip", "link", "set", "dev", "lo", "up")
    return "made one and brought its lo up"


def _own_root() -> str:
    return "made / the root of a mount namespace" if own_root.enter() else "/ is the root of its mount namespace"


def _mnexec() -> str:
    shell("mnexec", "-n", "true")
    return "mnexec ran a command in a new namespace"


def _mininet() -> str:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mininet import net
    return f"imported from {Path(net.__file__).parent}"


def _veth_and_bridge() -> str:
    shell("ip", "link", "add", "name", "un0", "type", "veth", "peer", "name", "un1")
    shell("ip", "link", "add", "name", "unbr", "type", "bridge")
    shell("ip", "link", "set", "dev", "un0", "master", "unbr", "up")
    shell("ip", "link", "set", "dev", "un1", "up")
    shell("ip", "link", "set", "dev", "unbr", "up")
    # Whatever was set before, the kernel opens a port by itself some time after its carrier came.
    _await_port("forwarding")
    for state, word in (("0", "disabled"), ("3", "forwarding")):
        shell("bridge", "link", "set", "dev", "un0", "state", state)
        _await_port(word)
    return "a veth pair on a bridge, its port closed and opened again"


def _await_port(word: str) -> None:
    end_s = time.monotonic() + _PORT_S
    while word not in shell("bridge", "link", "show", "dev", "un0"):
        if time.monotonic() > end_s:
            raise TrialError(f"the port did not become {word}")
        time.sleep(0.01)


def _sysctls() -> str:
    setting = Path("/proc/sys/net/ipv4/ip_forward")
    setting.write_text("1")
    if setting.read_text().strip() != "1":
        raise TrialError("ip_forward stayed what it was")
    return "set ip_forward and read it back"


def _ipv6() -> str:
    shell("ip", "-6", "address", "add", "fd77::1/128", "dev", "lo", "nodad")
    return "gave lo an address"


def _htb() -> str:
    shell("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb", "default", "1")
    shell(
        "tc", "class", "add", "dev", "lo", "parent", "1:", "classid", "1:1", "htb", "rate", "100mbit", "ceil", "100mbit"
    )
    shell("tc", "qdisc", "add", "dev", "lo", "parent", "1:1", "bfifo", "limit", "100000")
    if "100Mbit" not in shell("tc", "class", "show", "dev", "lo"):
        raise TrialError("the class does not show the rate it was given")
    return "a class of 100 Mbit/s with a bfifo, read back"


def _netem() -> str:
    shell("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    return "a delay of 1 ms on lo"


def _holding() -> str:
    from unnoticed.agents.holding import Holding
    from unnoticed.agents.kernel.libc import NetworkNamespace
    from unnoticed.agents.kernel.packet_socket import Filler
    from unnoticed.agents.plug import Plug

    shell("ip", "link", "add", "name", "un0", "type", "veth", "peer", "name", "un1")
    for end in ("un0", "un1"):
        shell("ip", "link", "set", "dev", end, "up")
    here = NetworkNamespace(os.getpid())
    Holding(port="un0", guest=(here, "un1"), uplinks=["lo"], mac=bytes(6))
    plug = Plug("un0", guest=(here, "un1"), limit_bytes=1 << 20)
    plug.arm(limit_bytes=1 << 20)
    Filler("un0", ether_type=0x0800).send(frames=3, length=1000)
    held, came = plug.held(), len(plug.empty())
    if (held.frames, came) != (3, 3):
        raise TrialError(f"of 3 frames {held.frames} were held and {came} came out")
    return "held 3 frames on their way through a veth pair, and let them go"


def _nftables() -> str:
    shell("nft", "add table netdev un")
    shell("nft", "add chain netdev un in { type filter hook ingress device lo priority 0; }")
    shell("nft", "add rule netdev un in numgen random mod 10000 < 100 counter drop")
    return "a rule that drops at random, at the ingress of lo"


def _tcp_repair() -> str:
    with socket.socket() as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR, include/uapi/linux/tcp.h
        if tcp.getsockopt(socket.IPPROTO_TCP, 19) != 1:
            raise TrialError("the socket did not enter repair mode")
    return "a socket entered repair mode"


def _congestion() -> str:
    with socket.socket() as tcp:
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    # In a network namespace other than the first, a module is listed only once some socket has used it.
    return f"a socket took cubic (listed: {', '.join(available.read_text().split()) if available.exists() else 'none'})"


def _packet_ring() -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as ring:
        ring.setsockopt(263, 10, 2)  # SOL_PACKET, PACKET_VERSION, TPACKET_V3 (include/uapi/linux/if_packet.h)
        block, blocks = 1 << 18, 4
        ring.setsockopt(263, 5, struct.pack("=7I", block, blocks, 2048, block // 2048 * blocks, 60, 0, 0))
        with mmap.mmap(ring.fileno(), block * blocks):
            pass
    return "a TPACKET_V3 ring, mapped"


def _fifo() -> str:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return "a process took priority 50"


def _dirty_tracking() -> str:
    from unnoticed.agents.tracking import available

    best, *others = available()
    return f"by {best}" + (f" (which a plan can change to {' or '.join(others)})" if others else "")


def _vmsplice() -> str:
    kernel.splice_page()
    return "a page, through a pipe"


def _memfd() -> str:
    fd = os.memfd_create("unnoticed")
    os.ftruncate(fd, mmap.PAGESIZE)
    with mmap.mmap(fd, mmap.PAGESIZE) as memory:
        memory[:2] = b"ok"
    os.close(fd)
    return "one page, mapped and written"


def _installed(command: str) -> str:
    path = shutil.which(command)
    if path is None:
        raise TrialError(f"{command} is not installed")
    return path


def _kvm() -> str:
    fd = os.open("/dev/kvm", os.O_RDWR)
    version = ioctl(fd, 0xAE00)  # KVM_GET_API_VERSION, include/uapi/linux/kvm.h
    machine = ioctl(fd, 0xAE01, 0)  # KVM_CREATE_VM
    os.close(machine)
    os.close(fd)
    return f"made an empty machine (API version {version})"


def _open_vswitch() -> str:
    try:
        genetlink.find_family("ovs_datapath")
    except OSError as error:
        raise TrialError(f"the kernel has no ovs_datapath ({error.strerror})") from error
    if shutil.which("ovs-vswitchd") is None:
        raise TrialError("the kernel has its datapath, but ovs-vswitchd is not installed")
    return "the kernel's datapath answers, and ovs-vswitchd is there"


_APT = "apt-get install --no-install-recommends"
_KERNEL = "run a kernel that has it (any Debian 13 kernel does)"

CAPABILITIES: tuple[Capability, ...] = (
    Capability(name="root", purpose="everything below", probed="asked for the user id", attempt=_root, network=False,
               remedy="run it as root: sudo unnoticed doctor"),
    Capability(name="network namespaces", purpose="every host, switch and client", attempt=_namespace,
               probed="unshared one and brought lo up", remedy=f"{PRIVILEGE}; {_APT} iproute2"),
    Capability(name="mount namespaces", purpose="starting processes in Mininet's nodes", attempt=_own_root,
               probed="looked whether / is the root of one, else made it that", remedy=PRIVILEGE, network=False),
    Capability(name="mnexec", purpose="starting processes in Mininet's nodes", attempt=_mnexec,
               probed="ran true in a namespace, with a time limit", remedy=f"{_APT} mininet"),
    Capability(name="Mininet", purpose="building the network", attempt=_mininet, probed="imported mininet.net",
               remedy="run scripts/setup, which links Debian's mininet into the environment", network=False),
    Capability(name="veth and bridge", purpose="links, switches, and the guest's gate", attempt=_veth_and_bridge,
               probed="made both, set a port's state, read it back", remedy=f"{_KERNEL}; {_APT} iproute2"),
    Capability(name="network sysctls", purpose="routes, neighbours and IPv6 of hosts", attempt=_sysctls,
               probed="set one in a namespace", remedy="run a container with --privileged, or with "
               "--security-opt unmask=/proc/sys"),
    Capability(name="IPv6", purpose='clients that speak it: clients.ip = "ipv6"', attempt=_ipv6, required=False,
               probed="gave lo an address", cost="no guests and clients with IPv6",
               remedy="run a kernel with IPv6, booted without ipv6.disable=1"),
    Capability(name="HTB", purpose="links of a set rate", attempt=_htb, probed="shaped lo and read the class back",
               remedy=_KERNEL),
    Capability(name="dirty tracking", purpose="finding the pages that are written in a round", network=False,
               attempt=_dirty_tracking, probed="wrote a page and looked for it", remedy=_KERNEL),
    Capability(name="memfd", purpose="the guest's RAM", attempt=_memfd, probed="made, mapped and wrote one",
               remedy=_KERNEL, network=False),
    Capability(name="vmsplice", purpose="sending pages without a copy", attempt=_vmsplice, network=False,
               probed="put a page into a pipe", remedy="run a container with --privileged, or with "
               "--security-opt seccomp=unconfined"),
    Capability(name="pidfd_getfd", purpose="the agent's hold on the guest's memory", attempt=kernel.take_descriptor,
               probed="took a descriptor out of a child", network=False,
               remedy=f"run Linux 5.6 or newer; {PRIVILEGE}"),
    Capability(name="TCP_REPAIR", purpose="moving live connections", attempt=_tcp_repair,
               probed="put a socket into repair mode", remedy=f"{_KERNEL} (CONFIG_CHECKPOINT_RESTORE); {PRIVILEGE}"),
    Capability(name="holding frames", purpose='a cutover that loses no frame: gap = "hold"', attempt=_holding,
               probed="held frames on a veth pair and let them go", required=False,
               cost='plans with gap = "hold" cannot be run',
               remedy=f"{_KERNEL} (sch_tbf, clsact, cls_bpf, tun); {PRIVILEGE}"),
    Capability(name="packet ring", purpose="complete captures", attempt=_packet_ring,
               probed="made an AF_PACKET ring and mapped it", remedy=f"{_KERNEL}; {PRIVILEGE}"),
    Capability(name="SCHED_FIFO", purpose="probes that wake on time", attempt=_fifo, required=False,
               probed="set it for a process", cost="the machine's own stalls reach further into the measurement",
               remedy="allow realtime scheduling (CAP_SYS_NICE, and cpu.rt_runtime_us of the container's cgroup)",
               network=False),
    Capability(name="cubic", purpose="the clients' congestion control", attempt=_congestion,
               probed="set it on a socket", required=False, remedy="modprobe tcp_cubic",
               cost="plans must name another congestion control"),
    Capability(name="nftables", purpose="links that lose frames, firewalls", attempt=_nftables, required=False,
               probed="added a rule that drops at random", cost="no loss on links without netem",
               remedy=f"{_APT} nftables"),
    Capability(name="netem", purpose="links with delay and loss", attempt=_netem, required=False,
               probed="delayed lo by 1 ms",
               cost="a process of ours keeps the delay of links, up to 1 Gbit/s",
               remedy="run a kernel with sch_netem (a Debian kernel has it as a module)"),
    Capability(name="userfaultfd, async write-protect", purpose="finding dirty pages at the least cost",
               required=False, network=False, attempt=kernel.track_dirty_page,
               probed="protected a memfd, wrote one page, scanned its pagemap",
               cost="the guest stands still for each look at its pages (soft-dirty), or the look takes longer "
               "(comparison)", remedy="run Linux 6.7 or newer (PAGEMAP_SCAN)"),
    Capability(name="userfaultfd, missing pages", purpose="a guest that runs before its pages are there: post-copy",
               required=False, network=False, attempt=kernel.wait_for_page,
               probed="had a thread wait for a page of a memfd", cost='no modes "post-copy" and "hybrid"',
               remedy=f"run Linux 4.11 or newer; {PRIVILEGE}"),
    Capability(name="soft-dirty", purpose="finding dirty pages on kernels before 6.7", required=False, network=False,
               attempt=kernel.soft_dirty_page, probed="cleared the bits, wrote a page, read its bit",
               cost="nothing, where userfaultfd does it", remedy="run a kernel with CONFIG_MEM_SOFT_DIRTY"),
    Capability(name="Open vSwitch", purpose='switches that are not Linux bridges: switch.kind = "ovs"',
               attempt=_open_vswitch, required=False,
               probed="asked the kernel for its datapath", cost="switches are Linux bridges",
               remedy=f"{_APT} openvswitch-switch, on a kernel with openvswitch"),
    *(
        Capability(name=tool.name, purpose="measuring beside our probes (clients.tools)", required=False,
                   attempt=functools.partial(_installed, tool.name), probed="looked for it", network=False,
                   cost="it cannot be compared with our probes", remedy=f"{_APT} {tool.package}")
        for tool in TOOLS.values()
    ),
    Capability(name="KVM", purpose="fast virtual machines as guests", attempt=_kvm, required=False, is_used=False,
               network=False, probed="opened /dev/kvm and made a machine",
               cost="virtual machines are emulated in software",
               remedy="run on hardware, or with nested virtualisation"),
)  # fmt: skip
