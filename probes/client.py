"""A load client: `python -m unnoticed.probes.client SETTINGS` (unnoticed.probes.client_settings, as JSON).

One thread and one epoll. Everything is open loop: requests and connection attempts leave at times that were fixed
when the load began, whatever became of the earlier ones. Latency is best measured in a process that does no bulk
transfer: a client then has two processes, told apart by `records_name` and `connection_base`.

Started by "start", it runs until "stop". Then it asks for nothing more, waits until every answer is in, every byte is
acknowledged and the guest has closed (`grace_s` at most; what is missing then is marked), reads the kernel's counters
of each connection, writes its records, and answers "done" with a summary.
"""

from __future__ import annotations

import gc
import random
import select
import sys
from collections.abc import Callable

from unnoticed.clock import now_ns
from unnoticed.control import Control, ParentGoneError
from unnoticed.events import EventLog
from unnoticed.probes.bulk_flows import DownloadFlow, UploadFlow
from unnoticed.probes.client_flows import ConnectFlow, Flow, RequestFlow
from unnoticed.probes.client_settings import ClientSettings
from unnoticed.probes.connection import Connection
from unnoticed.probes.realtime import PRIORITY, become_realtime
from unnoticed.probes.records import RequestLog
from unnoticed.probes.schedule import Schedule
from unnoticed.probes.timerfd import Timer
from unnoticed.workload import PATTERN_CHUNK, pattern

CONNECTS_IN_FLIGHT_MAX = 512
REOPEN_AFTER_NS = 100_000_000  # a dead request connection is replaced after this
LEAD_NS = 20_000_000  # from the first SYN to the first request
LATE_NS = 5_000_000  # requests sent later than this after their time are an event: the latency is our own
LATE_EVENTS_MAX = 1000
_POLL_S = 0.05


class Client:
    """The load of one process. `run` returns when it was stopped and its records are written."""

    def __init__(self, settings: ClientSettings, *, control: Control, events: EventLog) -> None:
        self._settings = settings
        self._control = control
        self._events = events
        self._log = RequestLog()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._connections: dict[int, Connection] = {}  # by file descriptor
        self._interests: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._buffer = bytearray(PATTERN_CHUNK)
        self._last_connection = settings.connection_base

        self._slots: list[RequestFlow] = []  # the flow that serves each place of request_response.connections
        self._of_flow: dict[int, Connection] = {}  # by connection number, of request flows
        self._reopen: list[tuple[int, int]] = []  # (when, slot)
        self._request_schedule: Schedule | None = None
        self._requests_issued = 0
        self._connect_schedule: Schedule | None = None
        self._connects_issued = 0
        self._connects_in_flight = 0

        self._stop_deadline_ns = 0
        self._summary = dict.fromkeys(
            ("connections", "resets", "unfinished", "unsent", "wrong_bytes", "bytes_uploaded", "bytes_downloaded"), 0
        )
        self._late_max_ns = 0
        self._late_events = 0

    def run(self) -> None:
        """Serve the control channel and the load until stopped. Raises ParentGoneError."""
        self._add(self._control.fileno(), select.EPOLLIN, self._on_control)
        self._control.reply("ready")
        while not self._stop_deadline_ns or self._connections:
            ready = [(fd, events, self._handlers[fd]) for fd, events in self._epoll.poll(_POLL_S, 64)]
            for fd, events, handler in ready:
                # An earlier handler of this turn may have closed the descriptor, and given its number to another.
                if self._handlers.get(fd) is handler:
                    handler(events)
            now = now_ns()
            if self._reopen and now >= self._reopen[0][0]:
                self._reopen_requests(now)
            if self._stop_deadline_ns and now >= self._stop_deadline_ns:
                for connection in list(self._connections.values()):
                    self._close(connection, "final")
        self._finish()

    # --- commands -----------------------------------------------------------------------------------------------

    def _on_control(self, _events: int) -> None:
        for command in self._control.receive():
            if command["command"] == "start":
                self._start()
            elif command["command"] == "stop":
                self._stop()

    def _start(self) -> None:
        settings = self._settings
        start_ns = now_ns() + LEAD_NS
        luck = None if settings.seed is None else random.Random(settings.seed)
        requests_phase, connects_phase = (0.0, 0.0) if luck is None else (luck.random(), luck.random())
        if settings.request_response:
            self._slots = [self._request_flow() for _ in range(settings.request_response.connections)]
            for flow in self._slots:
                self._open_requests(flow)
            self._request_schedule = Schedule.at_rate(
                start_ns=start_ns, rate_hz=settings.request_response.rate_hz, phase=requests_phase
            )
            self._tick(self._request_schedule, self._on_request_time)
        if settings.download:
            rate = settings.download.rate_byte_per_s or 0
            for _ in range(settings.download.connections):
                self._open(DownloadFlow(connection=self._next_connection(), rate_bytes_per_s=rate))
        if settings.upload:
            for _ in range(settings.upload.connections):
                upload = UploadFlow(connection=self._next_connection())
                self._open(upload, pacing_byte_per_s=settings.upload.rate_byte_per_s)
        if settings.connect:
            self._connect_schedule = Schedule.at_rate(
                start_ns=start_ns, rate_hz=settings.connect.rate_hz, phase=connects_phase
            )
            self._tick(self._connect_schedule, self._on_connect_time)

    def _stop(self) -> None:
        self._stop_deadline_ns = now_ns() + int(self._settings.grace_s * 1e9)
        for timer in self._timers:
            self._remove(timer.fileno())
            timer.close()
        self._timers.clear()
        self._reopen.clear()
        for connection in list(self._connections.values()):
            connection.flow.finish()
            connection.advance()
            self._settle(connection)

    def _finish(self) -> None:
        self._log.write(self._settings.records / f"{self._settings.records_name}.requests.npz")
        answered = sum(1 for answered_ns in self._log.answered_ns if answered_ns)
        self._control.reply(
            "done",
            requests=len(self._log),
            answered=answered,
            right=sum(self._log.right),
            late_max_ns=self._late_max_ns,
            late_events=self._late_events,
            **self._summary,
        )

    # --- requests -----------------------------------------------------------------------------------------------

    def _request_flow(self) -> RequestFlow:
        return RequestFlow(connection=self._next_connection(), log=self._log)

    def _open_requests(self, flow: RequestFlow) -> None:
        connection = self._open(flow)
        if connection is not None:
            self._of_flow[flow.connection] = connection

    def _on_request_time(self) -> None:
        assert self._request_schedule is not None
        due = self._request_schedule.due(now_ns())
        self._note_lateness("request", self._request_schedule, self._requests_issued, due)
        for slot in range(self._requests_issued, due):
            flow = self._slots[slot % len(self._slots)]
            if not flow.request(intended_ns=self._request_schedule.intended_ns(slot)):
                self._summary["unsent"] += 1
            connection = self._of_flow.get(flow.connection)
            if connection is not None:
                connection.send(self._buffer)
                self._settle(connection)
        self._requests_issued = due

    def _reopen_requests(self, now: int) -> None:
        while self._reopen and self._reopen[0][0] <= now:
            _, slot = self._reopen.pop(0)
            self._open_requests(self._slots[slot])

    def _replace(self, flow: RequestFlow) -> None:
        """Put a new connection, with a number of its own, in the place of one that died; the old one stays dead."""
        self._of_flow.pop(flow.connection, None)
        if self._stop_deadline_ns:
            return
        slot = self._slots.index(flow)
        self._slots[slot] = self._request_flow()
        self._events.write("reopened", connection=self._slots[slot].connection, instead_of=flow.connection)
        self._reopen.append((now_ns() + REOPEN_AFTER_NS, slot))

    # --- connection attempts ------------------------------------------------------------------------------------

    def _on_connect_time(self) -> None:
        assert self._connect_schedule is not None
        due = self._connect_schedule.due(now_ns())
        self._note_lateness("connect", self._connect_schedule, self._connects_issued, due)
        for slot in range(self._connects_issued, due):
            intended_ns = self._connect_schedule.intended_ns(slot)
            flow = ConnectFlow(connection=self._next_connection(), log=self._log, intended_ns=intended_ns)
            if self._connects_in_flight >= CONNECTS_IN_FLIGHT_MAX:
                self._summary["unsent"] += 1
                continue
            flow.started(now_ns=now_ns())
            if self._open(flow) is not None:
                self._connects_in_flight += 1
        self._connects_issued = due

    # --- connections --------------------------------------------------------------------------------------------

    def _next_connection(self) -> int:
        self._last_connection += 1
        return self._last_connection

    def _open(self, flow: Flow, *, pacing_byte_per_s: int | None = None) -> Connection | None:
        """Start a connection for a flow; None if that failed at once (which is an event)."""
        self._summary["connections"] += 1
        try:
            connection = Connection(
                flow,
                (self._settings.guest, self._settings.port),
                congestion_control=self._settings.congestion_control,
                pacing_byte_per_s=pacing_byte_per_s,
            )
        except OSError as error:
            self._note_death(flow, f"connecting failed: {error.strerror}")
            return None
        fd = connection.fileno()
        self._connections[fd] = connection
        self._interests[fd] = connection.interest
        self._add(fd, connection.interest, lambda events: self._on_connection(connection, events))
        return connection

    def _on_connection(self, connection: Connection, events: int) -> None:
        connection.turn(events, self._buffer)
        self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """Act on what became of a connection: close it, or wait for what it waits for now."""
        if connection.finished:
            self._close(connection, "close")
        elif connection.death:
            self._close(connection, "reset")
        else:
            fd, interest = connection.fileno(), connection.interest
            if interest != self._interests[fd]:
                self._interests[fd] = interest
                self._epoll.modify(fd, interest)

    def _close(self, connection: Connection, reason: str) -> None:
        fd, flow = connection.fileno(), connection.flow
        self._remove(fd)
        del self._connections[fd], self._interests[fd]
        self._events.write("socket", **connection.close(reason))
        self._summary["wrong_bytes"] += flow.wrong_bytes
        self._summary["unfinished"] += reason == "final"
        if isinstance(flow, ConnectFlow):
            self._connects_in_flight -= 1
        elif isinstance(flow, DownloadFlow):
            self._summary["bytes_downloaded"] += flow.bytes_received
        elif isinstance(flow, UploadFlow):
            self._summary["bytes_uploaded"] += flow.uploaded_bytes
        if reason == "reset":
            self._note_death(flow, connection.death)

    def _note_death(self, flow: Flow, detail: str) -> None:
        self._summary["resets"] += 1
        self._events.write("reset", workload=flow.kind.name.lower(), connection=flow.connection, detail=detail)
        if isinstance(flow, RequestFlow):
            self._replace(flow)

    # --- the loop's own business --------------------------------------------------------------------------------

    def _tick(self, schedule: Schedule, on_time: Callable[[], None]) -> None:
        timer = Timer(start_ns=schedule.start_ns, period_ns=schedule.period_ns)
        self._timers.append(timer)

        def on_timer(_events: int) -> None:
            timer.expirations()
            on_time()

        self._add(timer.fileno(), select.EPOLLIN, on_timer)

    def _note_lateness(self, workload: str, schedule: Schedule, first: int, due: int) -> None:
        if due <= first:
            return
        late_ns = now_ns() - schedule.intended_ns(first)
        self._late_max_ns = max(self._late_max_ns, late_ns)
        if late_ns >= LATE_NS:
            self._late_events += 1
            if self._late_events <= LATE_EVENTS_MAX:
                self._events.write("late", workload=workload, late_ns=late_ns, requests=due - first)

    def _add(self, fd: int, interest: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, interest)

    def _remove(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)


def main() -> int:
    """Run as a child process; 1 if the parent went away."""
    settings = ClientSettings.from_json(sys.argv[1])
    control = Control()
    events = EventLog(settings.events, who=settings.client)
    if settings.download or settings.upload:
        pattern(0, 0, 1)  # makes the table, which takes some milliseconds
    if settings.realtime:
        for refused in become_realtime(priority=PRIORITY - 10):
            events.write("not-realtime", detail=refused)
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles; a collection would stop the clock of every request
    try:
        Client(settings, control=control, events=events).run()
    except ParentGoneError:
        return 1
    finally:
        events.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
