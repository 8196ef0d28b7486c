"""What an agent has on its host: the guest's network namespace, gate and vNIC, and the guest itself if it is here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unnoticed.agents.announce import Announcement, Announcer
from unnoticed.agents.guest_process import GuestProcess, GuestSettings
from unnoticed.agents.helper import Nursery
from unnoticed.agents.holding import Holding
from unnoticed.agents.kernel.bridge_port import BridgePort
from unnoticed.agents.kernel.libc import NetworkNamespace
from unnoticed.agents.kernel.socket_diag import HandshakeMonitor
from unnoticed.agents.ram import FIRST_DIRTIER_PAGE, Ram
from unnoticed.agents.wire import Copying
from unnoticed.events import EventLog


@dataclass(kw_only=True)
class Host:
    """One host, as its agent sees it. `guest` is None while the guest is elsewhere.

    `holding` is None where frames are not to be held.
    """

    place: str
    address: str
    key: bytes
    events: EventLog
    settings: GuestSettings
    namespace: NetworkNamespace
    gate: BridgePort
    announcer: Announcer
    handshakes: HandshakeMonitor
    announcements: Mapping[str, Announcement]
    nursery: Nursery
    guest: GuestProcess | None = field(default=None)
    holding: Holding | None = field(default=None)

    def new_guest(self, *, memory_bytes: int, copying: Copying = Copying.BEFORE) -> GuestProcess:
        """Fresh RAM and a guest's shell on it, ready to be booted or resumed. Raises MigrationError, OSError.

        `copying`: when the RAM's pages come; if all come after the guest, only its head is there.
        """
        present_pages = FIRST_DIRTIER_PAGE if copying is Copying.AFTER else None
        ram = Ram.create(memory_bytes=memory_bytes, present_pages=present_pages)
        try:
            guest = GuestProcess(self.settings, ram=ram, namespace=self.namespace, copying=copying)
        except BaseException:
            ram.close()
            raise
        try:
            guest.wait_ready()
        except BaseException:
            discard(guest)
            raise
        return guest


def discard(guest: GuestProcess) -> None:
    """End a guest process and free its RAM."""
    guest.kill()
    guest.ram.close()
