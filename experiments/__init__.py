"""Plans, trials, the runner and the command line: what composes the other four packages."""
