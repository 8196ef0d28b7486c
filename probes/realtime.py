"""Scheduling of a measuring process: sched(7) SCHED_FIFO, mlockall(2), and sleep until an instant.

A prober that waits for a processor measures its own waiting. FIFO puts it before every ordinary process (and
switches the 50 us of timer slack off), locked memory spares it page faults, and the collector is switched off
because its runs grow with what was recorded.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time

from unnoticed.clock import now_ns

# include/uapi/asm-generic/mman.h
_MCL_CURRENT = 1
_MCL_FUTURE = 2

# Above all ordinary processes and below the kernel's own FIFO threads (which run at 50 and 99).
PRIORITY = 40


def become_realtime(*, priority: int = PRIORITY) -> list[str]:
    """Make this process punctual, as far as the machine permits.

    Returns what was refused, one sentence each; an empty list if nothing was. The rest is done all the same.
    """
    refused = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        refused.append(f"SCHED_FIFO was refused ({error.strerror}): run as root, or with CAP_SYS_NICE")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        refused.append(
            f"mlockall was refused ({os.strerror(ctypes.get_errno())}): run as root, or raise RLIMIT_MEMLOCK"
        )
    gc.collect()
    gc.freeze()
    gc.disable()
    return refused


def sleep_until(deadline_ns: int) -> None:
    """Sleep until `deadline_ns` of CLOCK_MONOTONIC; at once if it has passed.

    From Python 3.11 on, time.sleep is clock_nanosleep to an absolute CLOCK_MONOTONIC deadline, so that a preemption
    between the subtraction and the sleep is the only thing that can make it late.
    """
    remaining_ns = deadline_ns - now_ns()
    if remaining_ns > 0:
        time.sleep(remaining_ns / 1e9)
