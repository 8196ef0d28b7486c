"""When a switch of Open vSwitch learned at which port the guest's MAC is: its daemon tells only who asks.

So it is asked for its table a thousand times a second, by its control socket (`fdb/show`), and what it learned is dated
by the answer: at most a period, and the time that the daemon takes to answer, after it was so. A machine on which that
takes long is asked less often: to ask must not be what it mainly does.
"""

from __future__ import annotations

import contextlib
import re
import select
from collections.abc import Iterable, Mapping

from unnoticed.clock import now_ns
from unnoticed.errors import RecordError
from unnoticed.patience import patient
from unnoticed.probes.relearn import Relearned
from unnoticed.probes.timerfd import Timer
from unnoticed.unixctl import Unixctl, UnixctlError

PERIOD_NS = 1_000_000
BRIDGE = "br0"
_REST = 4  # times what an answer took is not asked, so that it takes a fifth of a processor at most
_ANSWER_S = patient(10.0)
_LINE = re.compile(r"\s*(\S+)\s+\d+\s+((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\s+\S+\s*")


def learned_ports(text: str, macs: Iterable[str]) -> list[tuple[str, str]]:
    """The addresses, of those asked for, that `fdb/show` has, each with the number of its port."""
    wanted = set(macs)
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return [(match[2], match[1]) for match in found if match and match[2] in wanted]


class TablePoller:
    """Asks from its creation on. `fileno()` makes it usable in select, poll and epoll, as the other listeners are."""

    def __init__(self, switch: str, *, control: str, ports: Mapping[str, str], macs: Iterable[str]) -> None:
        """`ports`: names by number; `macs`: of the guest, wherever it is. Raises RecordError."""
        self.switch = switch
        self._ports = dict(ports)
        self._macs = {mac.lower() for mac in macs}
        self._port: str | None = None
        self._table = ""
        self._is_asked = self._is_gone = False
        with contextlib.ExitStack() as on_failure:
            try:
                self._control = on_failure.enter_context(contextlib.closing(Unixctl(control, timeout_s=_ANSWER_S)))
                self._take(self._control.ask("fdb/show", BRIDGE))
            except UnixctlError as error:
                raise RecordError(f"{switch}: {error}") from error
            self._control.poll_only()
            self._asked_ns = now_ns()
            timer = Timer(start_ns=self._asked_ns, period_ns=0)
            self._timer = on_failure.enter_context(contextlib.closing(timer))
            self._epoll = on_failure.enter_context(contextlib.closing(select.epoll()))
            for each in (self._timer, self._control):
                self._epoll.register(each.fileno(), select.EPOLLIN)
            on_failure.pop_all()

    @property
    def port(self) -> str | None:
        """The port at which the guest is known."""
        return self._port

    def fileno(self) -> int:
        return self._epoll.fileno()

    def receive(self) -> list[Relearned]:
        """What has been re-learned since the last call; does not block. Raises RecordError where nobody answers."""
        fired = self._timer.expirations()
        if self._is_gone:
            return []
        try:
            answer = self._control.receive() if self._is_asked else None
            found = [] if answer is None else self._take(answer)
            if answer is not None:
                now = now_ns()
                self._is_asked = False
                self._timer.set(max(self._asked_ns + PERIOD_NS, now + _REST * (now - self._asked_ns)))
            elif fired and not self._is_asked:
                self._asked_ns = now_ns()
                self._control.send("fdb/show", BRIDGE)
                self._is_asked = True
        except UnixctlError as error:
            self._is_gone = True
            self._epoll.unregister(self._control.fileno())
            raise RecordError(f"{self.switch}: {error}") from error
        return found

    def close(self) -> None:
        self._epoll.close()
        self._timer.close()
        self._control.close()

    def _take(self, table: str) -> list[Relearned]:
        time_ns, found = now_ns(), []
        if table == self._table:  # which is so nearly always, and costs nothing
            return []
        self._table = table
        for mac, number in learned_ports(table, self._macs):
            port = self._ports.get(number, number)
            if port != self._port:
                known = self._port
                found.append(
                    Relearned(switch=self.switch, port=port, previous=known, mac=mac, state=0, time_ns=time_ns)
                )
                self._port = port
        return found
