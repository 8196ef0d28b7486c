"""The command nft: rules in, the ruleset out, in the network namespace of the calling thread."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from unnoticed.errors import FabricError, MachineError

_TIMEOUT_S = 30.0


def run_nft(lines: Sequence[str]) -> None:
    """Give `lines` to nft. Raises FabricError or MachineError."""
    _nft(["-f", "-"], text="\n".join(lines) + "\n")


def read_table(family: str, table: str) -> list[dict[str, Any]]:
    """What nft says of a table, as its JSON objects (libnftables-json(5)). Raises FabricError."""
    try:
        objects: list[dict[str, Any]] = json.loads(_nft(["-j", "list", "table", family, table]))["nftables"]
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
            "There is no nft on this machine, which loss on links, firewalls and filters of switches need: "
            "install Debian's package nftables."
        ) from None
    except subprocess.TimeoutExpired as error:
        raise FabricError(f"nft did not answer within {_TIMEOUT_S:g} s.") from error
    if done.returncode != 0:
        raise FabricError(f"`nft {' '.join(arguments)}` failed: {' '.join(done.stderr.split())}")
    return done.stdout
