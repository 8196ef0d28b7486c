"""Whether this machine lets a process come before all ordinary ones."""

import os


def is_permitted():
    """Not so without root, nor in a container to which the host's cgroups (v1) give no realtime time of its own."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True
