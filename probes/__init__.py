"""Measurement: load clients, the prober, captures, retransmissions, outages, switch tables."""
