"""Calibration: outages of known length on this machine, and what each estimator makes of them."""
