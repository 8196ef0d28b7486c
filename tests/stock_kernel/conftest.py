"""Tests of what a stock kernel of Debian has and this machine's need not: `scripts/test-stock-kernel` runs them in one.

Elsewhere they are not collected: whatever they lack there would be no excuse, since there is a way to have it.
"""

import os

if not os.environ.get("UNNOTICED_STOCK_KERNEL"):
    collect_ignore_glob = ["test_*.py"]
