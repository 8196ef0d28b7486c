"""The one place where Mininet is imported: without its warnings, its console output and its global logger class.

Debian 12's Mininet 2.3.0 compares versions with distutils, which warns on import (and once more where a version is
compared). Importing `mininet.log` also makes its own class the default of every logger created afterwards, and
prints to the console; both are undone here, so its messages go to the ordinary logger "mininet" and nowhere else.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_logger_class = logging.getLoggerClass()
try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The distutils package is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "distutils Version classes are deprecated", DeprecationWarning)
        from mininet.cli import CLI
        from mininet.link import Intf, Link
        from mininet.log import OUTPUT, StreamHandlerNoNewline, lg
        from mininet.net import Mininet
        from mininet.node import Host, Node, Switch
        from mininet.topo import Topo
finally:
    logging.setLoggerClass(_logger_class)

for _handler in list(lg.handlers):
    lg.removeHandler(_handler)
lg.addHandler(logging.NullHandler())  # or `logging` itself prints warnings that nobody handles
lg.setLevel(logging.WARNING)


@contextmanager
def console_output() -> Iterator[None]:
    """Inside, what Mininet's commands have to say goes to stdout, as under `mn`."""
    handler, level = StreamHandlerNoNewline(sys.stdout), lg.level
    lg.addHandler(handler)
    lg.setLevel(OUTPUT)
    try:
        yield
    finally:
        lg.setLevel(level)
        lg.removeHandler(handler)


__all__ = ["CLI", "Host", "Intf", "Link", "Mininet", "Node", "Switch", "Topo", "console_output"]
