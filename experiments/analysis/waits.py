"""What a client waited for once the guest ran again, from the captures, the switches and the retransmissions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from unnoticed.experiments.analysis.raw import RawRecords, socket_events
from unnoticed.experiments.analysis.waterfall import (
    NO_ANNOUNCEMENT,
    NO_FRAME,
    ON_THE_WAY,
    SERVING,
    WAY_BACK,
    Repeated,
    Wait,
    switch_waits,
    timer_waits,
)
from unnoticed.probes.outages import Outage
from unnoticed.probes.packets import PROTOCOL_TCP, PROTOCOL_UDP, Bool, Packets
from unnoticed.workload import PROBE_PORT, Kind


def probe_waits(raw: RawRecords, client: str) -> list[Wait]:
    """Until the first probe of `client` in the cutover or later was answered; empty where there was no cutover."""
    from_ns = raw.migration.cutover_ns
    if from_ns is None:
        return []
    there, here, address = raw.packets("guest-b"), raw.packets(client), raw.client_address(client)
    is_probe = (there.protocol == PROTOCOL_UDP) & (there.destination_port == PROBE_PORT) & there.sent_by(address)
    first_ns = _first(there, is_probe, from_ns=from_ns)
    waits = [*_network_waits(raw, from_ns), Wait(name=NO_FRAME, until_ns=first_ns)]
    if first_ns is None:
        return waits
    is_echo = (there.protocol == PROTOCOL_UDP) & (there.source_port == PROBE_PORT) & (there.destination == address)
    left_ns = _first(there, is_echo, from_ns=first_ns)
    waits.append(Wait(name=SERVING, until_ns=left_ns))
    if left_ns is not None:
        is_answer = (here.protocol == PROTOCOL_UDP) & (here.source_port == PROBE_PORT) & (here.destination == address)
        waits.append(Wait(name=WAY_BACK, until_ns=_first(here, is_answer, from_ns=left_ns)))
    return waits


def request_waits(raw: RawRecords, client: str, longest: Outage, retransmits: pd.DataFrame) -> list[Wait]:
    """Until the request of `client` that waited longest was answered; empty where there was no cutover."""
    from_ns = raw.migration.cutover_ns
    if from_ns is None or longest.start_ns is None:
        return []
    waits = list(_network_waits(raw, from_ns))
    names = _flows_of(raw, client, _connection_of(raw, client, longest))
    if names is None:
        return waits
    end_ns = longest.start_ns + longest.outage_ns
    meant = (retransmits["time_ns"] >= longest.start_ns) & (retransmits["time_ns"] <= end_ns)
    rows = retransmits[retransmits["flow"].isin(names) & meant]
    columns = zip(rows["time_ns"], rows["sender"], rows["type"], rows["sequence"], strict=True)
    waits += timer_waits(
        Repeated(time_ns=int(time), sender=str(sender), type=str(kind), sequence=int(sequence))
        for time, sender, kind, sequence in columns
    )
    if longest.end_ns is None:
        return waits
    there, address = raw.packets("guest-b"), raw.client_address(client)
    port = int(names[0].split(">")[0].rsplit(":", 1)[1])
    data = (there.protocol == PROTOCOL_TCP) & (there.payload > 0)
    out = data & there.sent_to(address) & (there.destination_port == port)
    left_ns = _last(there, out, from_ns=from_ns, until_ns=end_ns)
    if left_ns is not None:
        into = data & there.sent_by(address) & (there.source_port == port)
        arrived_ns = _last(there, into, from_ns=from_ns, until_ns=left_ns)
        if arrived_ns is not None:
            waits.append(Wait(name=ON_THE_WAY, until_ns=arrived_ns))
        waits += [Wait(name=SERVING, until_ns=left_ns), Wait(name=WAY_BACK, until_ns=end_ns)]
    return waits


def _network_waits(raw: RawRecords, from_ns: int) -> Iterator[Wait]:
    """Until the announcement was on the wire, and until each switch had re-learned the port."""
    there = raw.packets("guest-b")
    announced_ns = _first(there, there.announcements(), from_ns=from_ns)
    if announced_ns is not None and raw.settings.migration.announce != "none":
        yield Wait(name=NO_ANNOUNCEMENT, until_ns=announced_ns)
    relearned = [(str(event["switch"]), int(event["time_ns"])) for event in raw.relearned]
    yield from switch_waits([(switch, time_ns) for switch, time_ns in relearned if time_ns >= from_ns])


def _connection_of(raw: RawRecords, client: str, longest: Outage) -> int | None:
    """The connection of the request that `longest` tells of."""
    requests = raw.requests(client)
    end_ns = None if longest.start_ns is None else longest.start_ns + longest.outage_ns
    is_it = (requests.workload == Kind.REQUEST) & (requests.intended_ns == longest.start_ns)
    answered = np.flatnonzero(is_it & (requests.answered_ns == end_ns))
    found = answered if len(answered) else np.flatnonzero(is_it)
    return int(requests.connection[found[0]]) if len(found) else None


def _flows_of(raw: RawRecords, client: str, connection: int | None) -> tuple[str, str] | None:
    """The names of a request connection's two flows: the client's, the guest's."""
    for event in socket_events(raw, of_clients=True):
        if event["who"] == client and event["workload"] == "request" and event["connection"] == connection:
            return f"{event['local']}>{event['remote']}", f"{event['remote']}>{event['local']}"
    return None


def _first(packets: Packets, chosen: Bool, *, from_ns: int) -> int | None:
    times = packets.time_ns[chosen & (packets.time_ns >= from_ns)]
    return int(times.min()) if len(times) else None


def _last(packets: Packets, chosen: Bool, *, from_ns: int, until_ns: int) -> int | None:
    times = packets.time_ns[chosen & (packets.time_ns >= from_ns) & (packets.time_ns <= until_ns)]
    return int(times.max()) if len(times) else None
