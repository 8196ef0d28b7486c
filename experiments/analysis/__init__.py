"""From the raw records of a trial to its tables."""
