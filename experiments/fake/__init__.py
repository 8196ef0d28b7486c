"""A bench without a network: trials that are computed, with a truth that is known."""
