"""Unnoticed: what the users of a live server feel when it is migrated to another host.

The packages are the folders at the top of the repository (linked here, so that one import name holds them all):
`topology` builds the network, `agents` migrate the guest, `probes` measure, `results` judge and draw, and
`experiments` composes the four, which do not know one another. The few modules beside this file are the common
ground: errors, the clock, the event log, the control channel of child processes, and the bytes that clients and
guest exchange.
"""

__version__ = "0.1.0"
