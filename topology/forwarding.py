"""Frames that pass from one port to another and may be lost on the way: nftables at the port's ingress (netdev family).

Source: nft(8), net/netfilter/nft_fwd_netdev.c and nft_numgen.c. `numgen random` draws a number for each frame, so that
losses are independent; a named counter counts what was dropped, and survives a change of the share.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unnoticed.errors import FabricError, MachineError
from unnoticed.topology.direction import WHOLE_PPM

TABLE = "emulator"
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """Frames that come in at `inlet`: a share of them is dropped, the others leave at `outlet`.

    Without an outlet all are dropped: a process has taken them before, and nobody else is to.
    """

    inlet: str
    outlet: str | None
    loss_ppm: int

    @property
    def counter(self) -> str:
        """The name of the counter of frames that were dropped."""
        return f"lost-{self.inlet}"

    def rules(self) -> list[str]:
        """The rules of the way's chain, in order."""
        if self.outlet is None:
            return []
        draw = f"numgen random mod {WHOLE_PPM} < {self.loss_ppm} " if self.loss_ppm < WHOLE_PPM else ""
        drop = f'{draw}counter name "{self.counter}" drop'
        return [*([drop] if self.loss_ppm else []), f'fwd to "{self.outlet}"']

    def table_lines(self) -> list[str]:
        """Lines for `nft -f` that make the way."""
        hook = f'type filter hook ingress device "{self.inlet}" priority 0; policy drop;'
        name = f"{TABLE} {self.inlet}"
        return [
            f"add counter netdev {TABLE} {self.counter}",
            f"add chain netdev {name} {{ {hook} }}",
            *(f"add rule netdev {name} {rule}" for rule in self.rules()),
        ]

    def change_lines(self) -> list[str]:
        """Lines for `nft -f` that give a way that is there another share, in one transaction."""
        name = f"{TABLE} {self.inlet}"
        return [f"flush chain netdev {name}", *(f"add rule netdev {name} {rule}" for rule in self.rules())]


def table_lines(ways: list[Way]) -> list[str]:
    """Lines for `nft -f` that make all ways of a namespace."""
    return [f"add table netdev {TABLE}", *(line for way in ways for line in way.table_lines())]


def run_nft(lines: list[str]) -> None:
    """Give `lines` to nft, in the calling thread's namespace. Raises FabricError or MachineError."""
    _nft(["-f", "-"], text="\n".join(lines) + "\n")


def read_table() -> list[dict[str, Any]]:
    """What nft says of the table, in the calling thread's namespace. Raises FabricError."""
    try:
        objects: list[dict[str, Any]] = json.loads(_nft(["-j", "list", "table", "netdev", TABLE]))["nftables"]
    except ValueError as error:
        raise FabricError("nft should have printed JSON, and did not.") from error
    return objects


def _nft(arguments: list[str], *, text: str = "") -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise MachineError(
            "There is no nft on this machine, without which links lose no frames: install Debian's package nftables."
        ) from None
    except subprocess.TimeoutExpired as error:
        raise FabricError(f"nft did not answer within {_TIMEOUT_S:g} s.") from error
    if done.returncode != 0:
        raise FabricError(f"`nft {' '.join(arguments)}` failed: {' '.join(done.stderr.split())}")
    return done.stdout


def way_differences(asked: list[Way], table: list[dict[str, Any]]) -> list[str]:
    """What of the table is not what was asked for; empty if all is well."""
    chains: dict[str, list[list[dict[str, Any]]]] = {
        each["chain"]["name"]: [] for each in table if each.get("chain", {}).get("hook") == "ingress"
    }
    for each in table:
        if "rule" in each:
            chains.setdefault(each["rule"]["chain"], []).append(each["rule"]["expr"])
    wrong = []
    for way in asked:
        expected: list[list[dict[str, Any]]] = [] if way.outlet is None else [[{"fwd": {"dev": way.outlet}}]]
        if expected and way.loss_ppm:
            left = {"numgen": {"mode": "random", "mod": WHOLE_PPM, "offset": 0}}
            match = {"match": {"op": "<", "left": left, "right": way.loss_ppm}}
            draw = [match] if way.loss_ppm < WHOLE_PPM else []
            expected.insert(0, [*draw, {"counter": way.counter}, {"drop": None}])
        if chains.get(way.inlet) != expected:
            wrong.append(f"the rules of {way.inlet} are {chains.get(way.inlet)} instead of {expected}")
    return wrong


def lost_frames(table: list[dict[str, Any]]) -> Mapping[str, int]:
    """How many frames were dropped so far, by inlet."""
    counters = (each["counter"] for each in table if "counter" in each)
    return {each["name"].removeprefix("lost-"): int(each["packets"]) for each in counters}
