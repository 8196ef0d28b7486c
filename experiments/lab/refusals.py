"""Which of Mininet's commands a lab refuses, and what to use instead: a sentence for each. Pure data.

Mininet means them for hosts whose addresses it gave itself, and for switches that a controller tells what to do.
"""

from __future__ import annotations

_PING = (
    "{} is not for a lab, where the guest has the same address at both hosts: use probe for the way to the guest, "
    "and NODE ping for any other, for instance c1 ping -c 3 control."
)
_IPERF = (
    "{} is not for a lab, since it would end every iperf of this machine: use NODE COMMAND, for instance "
    "control iperf3 -s -D, then c1 iperf3 -c control."
)
_SENTENCES = {
    "pingall": _PING,
    "pingallfull": _PING,
    "pingpair": _PING,
    "pingpairfull": _PING,
    "iperf": _IPERF,
    "iperfudp": _IPERF,
    "dpctl": "{} is not for a lab, whose switches have no controller: use tables for where each takes the guest to be.",
    "switch": "{} is not for a lab, whose switches run as long as it does: use link NODE NODE down to cut one off.",
    "wait": "{} is not for a lab, whose switches wait for no controller: use status to see that the guest answers.",
}
REFUSALS = {name: sentence.format(name) for name, sentence in _SENTENCES.items()}
