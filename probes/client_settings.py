"""The settings of a load client, as they come from the runner on its command line (JSON)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RequestSettings:
    """Request and answer: `rate_hz` requests per second of the whole client, spread over `connections`."""

    connections: int
    rate_hz: float


@dataclass(frozen=True, kw_only=True)
class BulkSettings:
    """Downloads or uploads: `rate_bit_per_s` of each connection (payload); None is as fast as it goes."""

    connections: int
    rate_bit_per_s: int | None = None

    @property
    def rate_byte_per_s(self) -> int | None:
        return None if self.rate_bit_per_s is None else max(1, self.rate_bit_per_s // 8)


@dataclass(frozen=True, kw_only=True)
class ConnectSettings:
    """New connections: `rate_hz` attempts per second of the whole client."""

    rate_hz: float


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """What one load process does; a client may have several, with other `records` and `connection_base`.

    client: name, as in the event log. guest, port: where the guest serves. events: path of the shared event log.
    records: folder. records_name: base of the file name (`<records_name>.requests.npz`); the client's name if not
    given. connection_base: connections are numbered from this + 1 on; it must keep the processes of a trial apart.
    grace_s: how long to wait for answers and ends after the stop.
    realtime: run under SCHED_FIFO (below the prober), so that latency is the network's and the guest's.
    seed: where in its period each schedule begins is drawn from it. Load begins a set time before a migration: without
    that, the migrations of all trials would meet slow schedules at the same point, and so would all clients.
    """

    client: str
    guest: str
    port: int
    events: Path
    records: Path
    records_name: str
    congestion_control: str = "cubic"
    connection_base: int = 0
    grace_s: float = 3.0
    realtime: bool = False
    seed: str | None = None  # none: at the begin of it
    request_response: RequestSettings | None = None
    download: BulkSettings | None = None
    upload: BulkSettings | None = None
    connect: ConnectSettings | None = None

    @classmethod
    def from_json(cls, text: str) -> ClientSettings:
        """Read the settings. Raises ValueError, KeyError or TypeError (a fault of the runner, not of the user)."""
        given: dict[str, Any] = json.loads(text)
        given["events"], given["records"] = Path(given["events"]), Path(given["records"])
        given.setdefault("records_name", given["client"])
        parts = {
            "request_response": RequestSettings,
            "download": BulkSettings,
            "upload": BulkSettings,
            "connect": ConnectSettings,
        }
        for name, part in parts.items():
            if given.get(name) is not None:
                given[name] = part(**given[name])
        return cls(**given)
