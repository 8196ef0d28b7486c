"""Tables, statistics, plots and the report of a run."""
